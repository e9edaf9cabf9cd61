//! The signing key of a node.
//!
//! Both sides derive it from the node's API key on their own; it never crosses the wire and is never printed.

use hmac::{Hmac, KeyInit};
use sha2::{Digest, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// `sha256(api key)`: signs every envelope of the node.
#[derive(Clone)]
pub struct SigningKey {
    bytes: Zeroizing<[u8; 32]>,
    /// An HMAC that has taken the key and nothing else: half of what a short message costs. It forgets itself, too.
    keyed: Hmac<Sha256>,
}

impl SigningKey {
    /// The key that belongs to an API key.
    #[must_use]
    pub fn derive(api_key: &str) -> Self {
        Self::new(Zeroizing::new(Sha256::digest(api_key.as_bytes()).into()))
    }

    fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        let keyed = Hmac::new_from_slice(bytes.as_slice()).expect("HMAC takes a key of any length");
        Self { bytes, keyed }
    }

    /// The key from its 64 hexadecimal digits, as the control plane is given it.
    ///
    /// # Errors
    /// The text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, hex::FromHexError> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, bytes.as_mut_slice())?;
        Ok(Self::new(bytes))
    }

    /// The key as bytes, for storage as the API key's hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    pub(crate) fn mac(&self) -> Hmac<Sha256> {
        self.keyed.clone()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}
