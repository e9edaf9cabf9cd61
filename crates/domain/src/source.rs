//! Where an app's code comes from: a repository, and which commit of it.
//!
//! These texts become arguments of `git`. A value of these types can never be read as an option, never carries
//! credentials, and never names a transport that runs a program.

use crate::name::text_type;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

const REPOSITORY_LEN_MAX: usize = 2_048;
const REF_LEN_MAX: usize = 255;

/// Why a source is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not an address that can be cloned.
    #[error("the repository must be an https://, http:// or file:// address, or an absolute path")]
    Repository,
    /// A password or token inside the address.
    #[error(
        "the repository address carries credentials: remove the part before the @, and set a login instead"
    )]
    Credentials,
    /// Not a branch or tag name.
    #[error(
        "{0:?} is not a branch name: use letters, digits and ./_-+ and do not start with a hyphen or dot"
    )]
    GitRef(String),
    /// Not a commit.
    #[error("{0:?} is not a commit: use its 40 hexadecimal digits")]
    Commit(String),
}

/// The address of a git repository: `https://`, `http://`, `file://` or an absolute path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository(String);

text_type!(Repository);

impl Repository {
    /// Whether the address names a folder of the worker itself, which only a worker that allows it may clone.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.0.starts_with('/') || self.0.starts_with("file://")
    }

    /// Scheme, host and port: where a login of this repository is good. None for a folder.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        let scheme = ["https://", "http://"].into_iter().find(|scheme| self.0.starts_with(scheme))?;
        let end = self.0[scheme.len()..].find(['/', '?', '#']).map_or(self.0.len(), |end| scheme.len() + end);
        Some(&self.0[..end])
    }

    /// Whether it is fetched over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl FromStr for Repository {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        if text.len() > REPOSITORY_LEN_MAX || !printable {
            return Err(SourceError::Repository);
        }
        if let Some(path) = text.strip_prefix("file://").or(text.starts_with('/').then_some(text)) {
            return if path.len() > 1 && path.starts_with('/') {
                Ok(Self(text.to_owned()))
            } else {
                Err(SourceError::Repository)
            };
        }
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
        if authority.contains('@') {
            return Err(SourceError::Credentials);
        }
        if authority.is_empty() || authority.starts_with('-') {
            return Err(SourceError::Repository);
        }
        Ok(Self(text.to_owned()))
    }
}

/// A branch or tag name: a safe part of what `git check-ref-format` takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitRef(String);

text_type!(GitRef);

impl FromStr for GitRef {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"./_-+".contains(&b);
        let part_ok =
            |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".lock");
        let ok = text.len() <= REF_LEN_MAX
            && text.bytes().all(allowed)
            && !text.contains("..")
            && !text.ends_with('.')
            && text.split('/').all(part_ok);
        if ok { Ok(Self(text.to_owned())) } else { Err(SourceError::GitRef(text.to_owned())) }
    }
}

/// A commit: 40 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Commit(String);

text_type!(Commit);

impl FromStr for Commit {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 40 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SourceError::Commit(text.to_owned()))
        }
    }
}

/// What to check out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where to clone from.
    pub repository: Repository,
    /// The branch or tag; the repository's default branch if none.
    pub branch: Option<GitRef>,
    /// One commit of that branch; its newest if none.
    pub commit: Option<Commit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_an_address_without_credentials() {
        for good in ["https://example.org/a.git", "http://10.0.0.1:3000/a", "file:///srv/a", "/srv/a"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a",
            "--upload-pack=x",
            "ext::sh -c id",
            "ssh://x/y",
            "https://",
            "https://-x/",
            "file://a",
            "https://a b",
        ] {
            assert_eq!(bad.parse::<Repository>(), Err(SourceError::Repository), "{bad}");
        }
        assert_eq!("https://u:p@h/a".parse::<Repository>(), Err(SourceError::Credentials));
        assert!("/srv/a".parse::<Repository>().expect("valid").is_local());
    }

    #[test]
    fn an_origin_is_an_address_without_its_path() {
        for (url, origin) in [
            ("https://example.org/a/b.git", Some("https://example.org")),
            ("http://[::1]:3000?a", Some("http://[::1]:3000")),
            ("https://example.org", Some("https://example.org")),
            ("file:///srv/a", None),
            ("/srv/a", None),
        ] {
            assert_eq!(url.parse::<Repository>().expect("a repository").origin(), origin);
        }
    }

    #[test]
    fn a_branch_can_never_be_an_option() {
        for good in ["main", "feature/x-1", "v1.2.3", "a_b+c"] {
            assert!(good.parse::<GitRef>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a/-b",
            "a/.b",
            "a.lock",
            "a b",
            "a\nb",
            "a~1",
            "x:y",
            "/a",
            "a/",
            "a.",
        ] {
            assert!(bad.parse::<GitRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_address_is_not_repeated_in_the_error() {
        let error = "https://user:hunter2@example.org/a".parse::<Repository>().expect_err("credentials");
        assert!(!error.to_string().contains("hunter2"));
    }
}
