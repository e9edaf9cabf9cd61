//! How an agent becomes known: `POST /v1/{workers|edges}/register`, answered by a token that opens the channel.
//!
//! `POST …/refresh-token` with the API key as bearer, and no body, gets the same answer. The API key travels in these two
//! requests only.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;
use wisehosting_domain::name::Label;

/// Body of the request to register.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The node's name.
    pub name: Label,
    /// Its API key.
    #[serde(serialize_with = "expose")]
    pub api_key: SecretString,
    /// Version of the agent program.
    pub version: String,
}

/// Answer to a registration or a refresh.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenResponse {
    /// Opens the channel, as `Authorization: Bearer <token>`.
    #[serde(serialize_with = "expose")]
    pub token: SecretString,
    /// When it stops to (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    pub token_expires_at: OffsetDateTime,
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}
