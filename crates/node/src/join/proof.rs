//! The proofs of a join: a token that both sides know, and keyed hashes over everything that they say. Pure.
//!
//! A token is a private key. The control plane keeps only its public half, the *verifier*, which crosses no wire. Both sides hash the verifier with
//! what the token and the control plane's own key have in common (X25519) to the same [`JoinKey`]: so it takes the token, or the
//! verifier *and* the control plane's private key. A copy of the database, which has the verifiers, opens nothing.

use super::messages::{JoinAnswer, JoinRequest};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use wisehosting_network::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// Tells what was found where it should not be.
const PREFIX: &str = "whj_";
const KEY: &str = "wisehosting join, version 1: key";
const REQUEST: &str = "wisehosting join, version 1: request";
const ANSWER: &str = "wisehosting join, version 1: answer";

/// What an operator gives to a machine that is to join: `whj_` and 44 characters.
#[derive(Debug)]
pub struct JoinToken(PrivateKey);

impl JoinToken {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(PrivateKey::generate())
    }

    /// Its text.
    #[must_use]
    pub fn expose(&self) -> SecretString {
        format!("{PREFIX}{}", *self.0.to_base64()).into()
    }

    /// What the control plane keeps of it.
    #[must_use]
    pub fn verifier(&self) -> PublicKey {
        self.0.public_key()
    }

    /// What it is called.
    #[must_use]
    pub fn id(&self) -> [u8; 8] {
        let hash = Sha256::digest(self.verifier().as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        id
    }
}

/// The text is no join token. It is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: it begins with {PREFIX}; `wisehosting-control-plane node token create` makes one")]
pub struct NotAToken;

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let key = text.strip_prefix(PREFIX).and_then(|key| key.parse().ok());
        key.map(Self).ok_or(NotAToken)
    }
}

/// What proofs with one token to one control plane are made with.
pub struct JoinKey(Zeroizing<[u8; 32]>);

impl JoinKey {
    /// The machine's way to it.
    #[must_use]
    pub fn of_token(token: &JoinToken, control_plane: &PublicKey) -> Self {
        Self::new(&token.verifier(), &token.0.shared_secret(control_plane), control_plane)
    }

    /// The control plane's way to it.
    #[must_use]
    pub fn of_control_plane(own: &PrivateKey, verifier: &PublicKey) -> Self {
        Self::new(verifier, &own.shared_secret(verifier), &own.public_key())
    }

    fn new(verifier: &PublicKey, shared: &[u8; 32], control_plane: &PublicKey) -> Self {
        Self(finish(hash(verifier.as_bytes(), KEY, &[shared, control_plane.as_bytes()])))
    }

    /// The proof that belongs into a request; the one that stands there does not count.
    #[must_use]
    pub fn of_request(&self, request: &JoinRequest) -> [u8; 32] {
        *finish(self.over_request(request))
    }

    /// Whether a request was made with this key. Takes the same time for every proof.
    #[must_use]
    pub fn proves_request(&self, request: &JoinRequest) -> bool {
        self.over_request(request).verify_slice(&request.proof).is_ok()
    }

    /// The proof that belongs into an answer to this request; the one that stands there does not count.
    #[must_use]
    pub fn of_answer(&self, request: &JoinRequest, answer: &JoinAnswer) -> [u8; 32] {
        *finish(self.over_answer(request, answer))
    }

    /// Whether an answer was made with this key, to this request. Takes the same time for every proof.
    #[must_use]
    pub fn proves_answer(&self, request: &JoinRequest, answer: &JoinAnswer) -> bool {
        self.over_answer(request, answer).verify_slice(&answer.proof).is_ok()
    }

    fn over_request(&self, request: &JoinRequest) -> Hmac<Sha256> {
        // Taken apart, so that a new field cannot be forgotten.
        let JoinRequest { token_id, challenge, nonce, role, name, public_key, api_key_sha256, proof: _ } =
            request;
        let (role, name) = (role.as_str().as_bytes(), name.as_str().as_bytes());
        let fields: [&[u8]; 7] =
            [token_id, challenge, nonce, role, name, public_key.as_bytes(), api_key_sha256];
        hash(&self.0, REQUEST, &fields)
    }

    /// The request's proof stands for the request.
    fn over_answer(&self, request: &JoinRequest, answer: &JoinAnswer) -> Hmac<Sha256> {
        let JoinAnswer { address, hub_address, hub_endpoint, url, mtu, proof: _ } = answer;
        let [address, hub_address, hub_endpoint, mtu] =
            [address.to_string(), hub_address.to_string(), hub_endpoint.to_string(), mtu.to_string()];
        let fields: [&[u8]; 6] = [
            &request.proof,
            address.as_bytes(),
            hub_address.as_bytes(),
            hub_endpoint.as_bytes(),
            url.as_bytes(),
            mtu.as_bytes(),
        ];
        hash(&self.0, ANSWER, &fields)
    }
}

impl fmt::Debug for JoinKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinKey(hidden)")
    }
}

/// HMAC-SHA256 over the label and the fields, each after its length in 8 bytes, the highest first: no two lists are one text.
fn hash(key: &[u8; 32], label: &str, fields: &[&[u8]]) -> Hmac<Sha256> {
    let mut hash = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for field in [label.as_bytes()].iter().chain(fields) {
        hash.update(&(field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash
}

fn finish(hash: Hmac<Sha256>) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(hash.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests;
