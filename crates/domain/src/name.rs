//! Names that end up in host names, container names and file names.
//!
//! A value of these types is valid by construction, so no later layer has to quote or check it again.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Longest DNS label (RFC 1035, section 2.3.4).
const LABEL_LEN_MAX: usize = 63;
/// Longest DNS name in its textual form (RFC 1035, section 2.3.4, less the root dot).
const HOSTNAME_LEN_MAX: usize = 253;
/// Longest [`Word`]; with an ending it is still a file name.
const WORD_LEN_MAX: usize = 64;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS label.
    #[error(
        "{0:?} is not a DNS label: use 1 to 63 lower-case letters, digits and hyphens, \
         starting with a letter and not ending with a hyphen"
    )]
    Label(String),
    /// Not a host name.
    #[error("{0:?} is not a host name: use lower-case DNS labels joined by dots, 253 characters at most")]
    Hostname(String),
    /// Not a word.
    #[error(
        "{0:?} is no name: use 1 to {WORD_LEN_MAX} letters, digits, '.', '_' or '-', a letter or digit first"
    )]
    Word(String),
}

fn is_label(text: &str, first: fn(&u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_LEN_MAX
        && bytes.first().is_some_and(first)
        && bytes.last() != Some(&b'-')
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = <Self as FromStr>::Err;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}
pub(crate) use text_type;

/// The name of an app or of a host: one DNS label that starts with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

text_type!(Label);

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_label(text, u8::is_ascii_lowercase) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Label(text.to_owned()))
        }
    }
}

/// A full host name, lower case, without the root dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

text_type!(Hostname);

impl Hostname {
    /// The host name of an app below the platform's own domain.
    ///
    /// # Errors
    /// The two together are longer than a DNS name can be.
    pub fn of_app(app: &Label, domain: &Hostname) -> Result<Self, NameError> {
        format!("{app}.{domain}").parse()
    }
}

impl FromStr for Hostname {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if text.len() <= HOSTNAME_LEN_MAX && text.split('.').all(|label| is_label(label, first)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Hostname(text.to_owned()))
        }
    }
}

/// What an operator calls a thing, also in another program: a route, an entrypoint, a certificate resolver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(String);

text_type!(Word);

impl FromStr for Word {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts_well && text.len() <= WORD_LEN_MAX && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Word(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_dns_takes() {
        for good in ["a", "hello", "my-app-2", &"a".repeat(63)] {
            assert!(good.parse::<Label>().is_ok(), "{good}");
        }
        for bad in
            ["", "-a", "a-", "2fast", "Hello", "a_b", "a.b", "a b", "ä", "--upload-pack=x", &"a".repeat(64)]
        {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hostname_is_labels_joined_by_dots() {
        for good in ["localhost", "hello.localhost", "3.example.org"] {
            assert!(good.parse::<Hostname>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "A.b", "a`b", "a b.c", &"a.".repeat(127)] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_word_can_end_no_quotes() {
        for good in ["a", "9", "vm-123", "Le_2.x", &"a".repeat(64)] {
            assert!(good.parse::<Word>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "../a", "a b", "a`b", "a{{b", "a\n", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<Word>().is_err(), "{bad}");
        }
    }
}
