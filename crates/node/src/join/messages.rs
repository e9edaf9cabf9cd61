//! What crosses the wire when a node joins: two requests to the control plane's public address, and their answers.

use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};
use wisehosting_domain::{name::Label, role::Role};
use wisehosting_network::{IpNet, PublicKey};

/// Path of the first request, which has no body.
pub const CHALLENGE_PATH: &str = "/v1/join/challenge";
/// Path of the second.
pub const JOIN_PATH: &str = "/v1/join";

/// Answer to the first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// To be repeated: it says when it was made, to the control plane alone.
    #[serde(with = "hex::serde")]
    pub challenge: Vec<u8>,
    /// The control plane's key in the mesh. Not believed before its proof.
    #[serde(with = "as_text")]
    pub public_key: PublicKey,
}

/// Length of a sealed hash: itself and a tag.
pub const SEALED_LEN: usize = 32 + 16;

/// Who wants to join as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What kind of node.
    pub role: Role,
    /// Its name.
    pub name: Label,
    /// Its key in the mesh.
    pub public_key: PublicKey,
    /// SHA-256 of its API key.
    pub api_key_sha256: [u8; 32],
}

/// Body of the second request: who wants to join as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Which token, without what is secret of it.
    #[serde(with = "hex::serde")]
    pub token_id: [u8; 8],
    /// As it was given.
    #[serde(with = "hex::serde")]
    pub challenge: Vec<u8>,
    /// The node's own, random.
    #[serde(with = "hex::serde")]
    pub nonce: [u8; 32],
    /// What kind of node.
    pub role: Role,
    /// Its name.
    pub name: Label,
    /// Its key in the mesh.
    #[serde(with = "as_text")]
    pub public_key: PublicKey,
    /// SHA-256 of its API key, which signs its channel: for the control plane's eyes alone.
    #[serde(with = "hex::serde")]
    pub sealed_api_key_sha256: [u8; SEALED_LEN],
    /// That it knows the token and has the private key, over all of this.
    #[serde(with = "hex::serde")]
    pub proof: [u8; 32],
}

/// Answer to the second request: the node's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinAnswer {
    /// The node's address, with the prefix of the mesh.
    pub address: IpNet,
    /// The control plane's address in the mesh.
    pub hub_address: IpAddr,
    /// Where the control plane takes the packets of its tunnels.
    pub hub_endpoint: SocketAddr,
    /// Base of the control plane's internal API.
    pub url: String,
    /// Largest packet inside the tunnels, in bytes.
    pub mtu: u32,
    /// That the control plane knows the token, over all of this and the request.
    #[serde(with = "hex::serde")]
    pub proof: [u8; 32],
}

/// Body of an answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalBody {
    /// What was refused.
    pub error: Refusal,
    /// That the control plane says so, over all of this and the request; empty if it cannot prove it: to one who proves nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex::serde")]
    pub proof: Vec<u8>,
}

/// Why a node does not join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A key in its text form.
mod as_text {
    use super::{Deserialize, Display, FromStr};
    use serde::{Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
