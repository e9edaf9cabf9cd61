//! The proofs of a join: a token that both sides know, and keyed hashes over everything that they say. Pure.
//!
//! A token is a private key. The control plane keeps only its public half, the *verifier*, which crosses no wire. Both sides hash the verifier with
//! what the token and the control plane's own key have in common (X25519), and with what the machine's key and the control plane's have in common, to
//! the same [`JoinKey`]: so it takes the token *and* the machine's private key, or the verifier *and* the control plane's private key. A copy of
//! the database, which has the verifiers, opens nothing; and who records a join and finds the token later reads nothing of it.

use super::messages::{Candidate, JoinAnswer, JoinRequest, Refusal, SEALED_LEN};
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use wisehosting_network::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// Tells what was found where it should not be.
const PREFIX: &str = "whj_";
const KEY: &str = "wisehosting join, version 2: key";
const SEAL: &str = "wisehosting join, version 2: seal";
const REQUEST: &str = "wisehosting join, version 2: request";
const ANSWER: &str = "wisehosting join, version 2: answer";
const REFUSAL: &str = "wisehosting join, version 2: refusal";

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

/// What proofs of one machine with one token to one control plane are made with.
pub struct JoinKey(Zeroizing<[u8; 32]>);

impl JoinKey {
    /// The machine's way to it; none if the control plane's key is one with which nothing is secret.
    #[must_use]
    pub fn of_token(token: &JoinToken, own: &PrivateKey, control_plane: &PublicKey) -> Option<Self> {
        let shared = [token.0.shared_secret(control_plane), own.shared_secret(control_plane)];
        Self::new(&token.verifier(), &shared, control_plane, &own.public_key())
    }

    /// The control plane's way to it; none if the machine's key is one with which nothing is secret.
    #[must_use]
    pub fn of_control_plane(own: &PrivateKey, verifier: &PublicKey, machine: &PublicKey) -> Option<Self> {
        let shared = [own.shared_secret(verifier), own.shared_secret(machine)];
        Self::new(verifier, &shared, &own.public_key(), machine)
    }

    fn new(
        verifier: &PublicKey,
        shared: &[Zeroizing<[u8; 32]>; 2],
        control_plane: &PublicKey,
        machine: &PublicKey,
    ) -> Option<Self> {
        // There are public keys that make this zero with every private key: nobody has to have one for them.
        if shared.iter().any(|shared| **shared == [0; 32]) {
            return None;
        }
        let [of_token, of_machine] = shared;
        let fields: [&[u8]; 4] = [&**of_token, &**of_machine, control_plane.as_bytes(), machine.as_bytes()];
        Some(Self(finish(hash(verifier.as_bytes(), KEY, &fields))))
    }

    /// A request to join, sealed and proved. The nonce is random: no two requests have the same.
    #[must_use]
    pub fn request(
        &self,
        token_id: [u8; 8],
        challenge: Vec<u8>,
        nonce: [u8; 32],
        who: &Candidate,
    ) -> JoinRequest {
        let mut request = JoinRequest {
            token_id,
            sealed_api_key_sha256: self.seal(&challenge, &nonce, &who.api_key_sha256),
            challenge,
            nonce,
            role: who.role,
            name: who.name.clone(),
            public_key: who.public_key,
            proof: [0; 32],
        };
        request.proof = *finish(self.over_request(&request));
        request
    }

    /// Who asks, if the request was made with this key. Takes the same time for every proof.
    #[must_use]
    pub fn open(&self, request: &JoinRequest) -> Option<Candidate> {
        self.over_request(request).verify_slice(&request.proof).ok()?;
        let mut sealed = request.sealed_api_key_sha256;
        let key = self.sealing_key(&request.challenge, &request.nonce);
        let api_key_sha256 = key.open_in_place(only_nonce(), Aad::empty(), &mut sealed).ok()?;
        Some(Candidate {
            role: request.role,
            name: request.name.clone(),
            public_key: request.public_key,
            api_key_sha256: (*api_key_sha256).try_into().ok()?,
        })
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

    /// The proof that belongs to a refusal of this request.
    #[must_use]
    pub fn of_refusal(&self, request: &JoinRequest, refusal: &Refusal) -> [u8; 32] {
        *finish(self.over_refusal(request, refusal))
    }

    /// Whether a refusal of this request was made with this key. Takes the same time for every proof.
    #[must_use]
    pub fn proves_refusal(&self, request: &JoinRequest, refusal: &Refusal, proof: &[u8]) -> bool {
        self.over_refusal(request, refusal).verify_slice(proof).is_ok()
    }

    fn over_request(&self, request: &JoinRequest) -> Hmac<Sha256> {
        // Taken apart, so that a new field cannot be forgotten.
        let JoinRequest {
            token_id,
            challenge,
            nonce,
            role,
            name,
            public_key,
            sealed_api_key_sha256,
            proof: _,
        } = request;
        let (role, name) = (role.as_str().as_bytes(), name.as_str().as_bytes());
        let fields: [&[u8]; 7] =
            [token_id, challenge, nonce, role, name, public_key.as_bytes(), sealed_api_key_sha256];
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

    fn over_refusal(&self, request: &JoinRequest, refusal: &Refusal) -> Hmac<Sha256> {
        let Refusal { code, message, hint } = refusal;
        let hint = hint.as_deref().unwrap_or_default();
        let fields: [&[u8]; 4] = [&request.proof, code.as_bytes(), message.as_bytes(), hint.as_bytes()];
        hash(&self.0, REFUSAL, &fields)
    }

    fn seal(&self, challenge: &[u8], nonce: &[u8], secret: &[u8; 32]) -> [u8; SEALED_LEN] {
        let mut sealed = [0; SEALED_LEN];
        let (text, tag) = sealed.split_at_mut(secret.len());
        text.copy_from_slice(secret);
        let key = self.sealing_key(challenge, nonce);
        let made = key.seal_in_place_separate_tag(only_nonce(), Aad::empty(), text);
        tag.copy_from_slice(made.expect("AES-GCM seals 32 bytes").as_ref());
        sealed
    }

    /// The key of one request. What is sealed with it is proved by the request's proof with all else.
    fn sealing_key(&self, challenge: &[u8], nonce: &[u8]) -> LessSafeKey {
        let key = finish(hash(&self.0, SEAL, &[challenge, nonce]));
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect("AES-256 takes 32 bytes"))
    }
}

/// Of a key that seals once.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
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
