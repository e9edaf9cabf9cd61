//! The machine's two requests. What comes back is used for nothing before the control plane has proved itself: what does not prove that, an
//! answer or a refusal, is a reason to try again, and none of its words are shown.

use super::{
    messages::{CHALLENGE_PATH, Candidate, Challenge, JOIN_PATH, JoinAnswer, Refusal, RefusalBody},
    proof::{JoinKey, JoinToken},
};
use crate::{http, random};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use std::{str::FromStr, time::Duration};
use tokio::time::sleep;
use wisehosting_domain::{name::Label, role::Role};
use wisehosting_network::{PrivateKey, PublicKey};

/// Another node with the same token may have been faster, or somebody may have answered in the control plane's place.
const ATTEMPTS_MAX: usize = 5;
const PAUSE: Duration = Duration::from_millis(300);
/// An answer has a few hundred.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Who wants to join.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// As what kind of node.
    pub role: Role,
    /// Its name.
    pub name: Label,
    /// Its key in the mesh. It stays here.
    pub private_key: PrivateKey,
    /// SHA-256 of its API key.
    pub api_key_sha256: [u8; 32],
}

/// A place in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What the control plane said.
    pub answer: JoinAnswer,
    /// Its key in the mesh.
    pub hub: PublicKey,
}

/// Address of a control plane's public API: `http` will do, since no secret crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinUrl(Url);

impl FromStr for JoinUrl {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let url = Url::parse(text).map_err(|_| NotAnAddress)?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        (plain && url.has_host() && matches!(url.scheme(), "http" | "https"))
            .then_some(Self(url))
            .ok_or(NotAnAddress)
    }
}

/// The text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write http:// or https://, a host and perhaps a port, such as https://hosting.example.org")]
pub struct NotAnAddress;

impl JoinUrl {
    fn at(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        url
    }
}

/// Why a machine has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The control plane did not answer.
    #[error("cannot reach the control plane: check --control-plane, and that this machine can connect there")]
    Unreachable(#[source] reqwest::Error),
    /// It answered with what is no answer to this.
    #[error(
        "what answered there is no control plane that nodes can join (status {0}): check --control-plane"
    )]
    Strange(StatusCode),
    /// It refused, and proved that it is the control plane.
    #[error("the control plane refuses: {}", sentences(.0))]
    Refused(Refusal),
    /// Somebody refused: perhaps the control plane, which can prove itself only to who knows a token of its own.
    #[error("what answered there refuses, without a proof that it is the control plane: {0}")]
    RefusedUnproved(&'static str),
    /// It did not prove that it knows the token.
    #[error(
        "the answer does not prove that it comes from the control plane that made the token, and is not used: \
         the token is for another control plane, or somebody is between"
    )]
    NotProved,
}

impl JoinError {
    /// Whether the control plane itself has said so, and would say it again.
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code != STALE)
    }
}

impl From<reqwest::Error> for JoinError {
    fn from(error: reqwest::Error) -> Self {
        Self::Unreachable(error.without_url())
    }
}

fn sentences(refusal: &Refusal) -> String {
    [Some(&*refusal.message), refusal.hint.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Joins, or learns again what joining gave before.
///
/// # Errors
/// See [`JoinError`]; nothing has changed here, and it may be tried again.
pub async fn join(server: &JoinUrl, token: &JoinToken, who: &Applicant) -> Result<Joined, JoinError> {
    let client = http::client()?;
    let mut attempts = 1;
    loop {
        match attempt(&client, server, token, who).await {
            // Anybody on the way may have said so.
            Err(error) if !error.is_final() && attempts < ATTEMPTS_MAX => {
                attempts += 1;
                sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

async fn attempt(
    client: &Client,
    server: &JoinUrl,
    token: &JoinToken,
    who: &Applicant,
) -> Result<Joined, JoinError> {
    let Challenge { challenge, public_key: hub } = match ask(client.post(server.at(CHALLENGE_PATH))).await? {
        Answer::Good(challenge) => challenge,
        Answer::Refused { status, body } => return Err(unproved(status, &body.error)),
    };
    let key = JoinKey::of_token(token, &who.private_key, &hub).ok_or(JoinError::NotProved)?;
    let candidate = Candidate {
        role: who.role,
        name: who.name.clone(),
        public_key: who.private_key.public_key(),
        api_key_sha256: who.api_key_sha256,
    };
    let request = key.request(token.id(), challenge, random::bytes(), &candidate);
    match ask::<JoinAnswer>(client.post(server.at(JOIN_PATH)).json(&request)).await? {
        Answer::Good(answer) if key.proves_answer(&request, &answer) => Ok(Joined { answer, hub }),
        Answer::Good(_) => Err(JoinError::NotProved),
        Answer::Refused { body: RefusalBody { error, proof }, .. }
            if key.proves_refusal(&request, &error, &proof) =>
        {
            Err(JoinError::Refused(error))
        }
        Answer::Refused { status, body } => Err(unproved(status, &body.error)),
    }
}

/// The code of a refusal that the next attempt may not meet.
const STALE: &str = "stale_challenge";

/// What a refusal that anybody may have written is about, in words of our own.
fn unproved(status: StatusCode, refusal: &Refusal) -> JoinError {
    JoinError::RefusedUnproved(match &*refusal.code {
        "wrong_token" => {
            "there is no such join token; it may have expired or been revoked: \
             make one with `wisehosting-control-plane node token create`"
        }
        "join_disabled" => {
            "no node can join this platform; set [join] in the control plane's configuration, or declare the node there"
        }
        "database_unavailable" => "it cannot reach its database at the moment; try again in a few seconds",
        STALE => "it takes no challenge; try again, and look whether its clock stands still",
        _ => return JoinError::Strange(status),
    })
}

enum Answer<T> {
    Good(T),
    Refused { status: StatusCode, body: RefusalBody },
}

async fn ask<T: DeserializeOwned>(request: RequestBuilder) -> Result<Answer<T>, JoinError> {
    let response = request.send().await?;
    let status = response.status();
    let strange = || JoinError::Strange(status);
    let body = body(response).await?.ok_or_else(strange)?;
    if status.is_success() {
        return serde_json::from_slice(&body).map(Answer::Good).map_err(|_| strange());
    }
    serde_json::from_slice(&body).map(|body| Answer::Refused { status, body }).map_err(|_| strange())
}

/// The body of an answer; none if it is too large for one.
async fn body(mut response: Response) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests;
