//! Secrets for people and their programs: 256 random bits, of which only the hash is kept.

use secrecy::SecretString;
use sha2::{Digest, Sha256};
use wisehosting_store::users::TokenHash;

/// A new secret with these random bytes, fit for a URL or a header.
#[must_use]
pub fn from_random(prefix: &str, bytes: [u8; 32]) -> SecretString {
    SecretString::from(format!("{prefix}{}", hex::encode(bytes)))
}

/// What is stored. The secret has 256 bits, so a fast hash without salt keeps it safe.
#[must_use]
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}
