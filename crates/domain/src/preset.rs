//! The ways in which a repository without a Dockerfile can be built.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A way to build a repository that has no Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Preset {
    /// Next.js, on its own server.
    Next,
    /// Vite: static files that a build writes.
    Vite,
    /// Node.
    Node,
    /// Go.
    Go,
    /// Python.
    Python,
    /// Static files as they are.
    Static,
}

/// A text that names no preset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a preset: use next, vite, node, go, python or static")]
pub struct UnknownPreset(String);

impl Preset {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Next, Self::Vite, Self::Node, Self::Go, Self::Python, Self::Static];

    /// The name in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Vite => "vite",
            Self::Node => "node",
            Self::Go => "go",
            Self::Python => "python",
            Self::Static => "static",
        }
    }
}

/// The name for people.
impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Next => "Next.js",
            Self::Vite => "Vite",
            Self::Node => "Node",
            Self::Go => "Go",
            Self::Python => "Python",
            Self::Static => "a static site",
        })
    }
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|preset| preset.as_str() == text).ok_or(UnknownPreset(text.to_owned()))
    }
}

impl TryFrom<String> for Preset {
    type Error = UnknownPreset;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Preset> for &'static str {
    fn from(preset: Preset) -> Self {
        preset.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for preset in Preset::ALL {
            assert_eq!(preset.as_str().parse(), Ok(*preset));
        }
        let error = "rails".parse::<Preset>().expect_err("no preset");
        assert!(error.to_string().contains("use next, vite"), "{error}");
    }
}
