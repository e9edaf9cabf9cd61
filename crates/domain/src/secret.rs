//! Texts that nobody else may read: [`Secret`] where they are used, [`Sealed`] where they are kept.
//!
//! Neither is ever printed: `Debug` shows that there is one, not what it is.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use zeroize::Zeroizing;

/// A secret in the open, wiped from memory when it is dropped. It is serialized as the text that it is, so only into
/// what is sent to who needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A secret that only who has its key can open. What it belongs to is part of the seal, so it opens nowhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Which key sealed it.
    #[serde(rename = "k")]
    pub key_id: String,
    /// Base64 of a nonce and what it was sealed to.
    #[serde(rename = "v")]
    pub value: String,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(by {})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sent_as_it_is_and_never_printed() {
        let secret = Secret::from("hunter2");
        assert_eq!(serde_json::to_string(&secret).expect("a text"), "\"hunter2\"");
        assert_eq!(serde_json::from_str::<Secret>("\"hunter2\"").expect("a text"), secret);
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
