//! The machine's two requests. What comes back is used for nothing before the control plane has proved itself, but to say why it refused.

use super::{
    messages::{CHALLENGE_PATH, Challenge, JOIN_PATH, JoinAnswer, JoinRequest},
    proof::{JoinKey, JoinToken},
};
use crate::{http, random};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use std::str::FromStr;
use wisehosting_domain::{name::Label, role::Role};
use wisehosting_network::PublicKey;

/// Another node with the same token may have been faster, each time.
const ATTEMPTS_MAX: usize = 5;
/// An answer has a few hundred.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Who wants to join.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// As what kind of node.
    pub role: Role,
    /// Its name.
    pub name: Label,
    /// Its key in the mesh.
    pub public_key: PublicKey,
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
    /// It refused, or somebody in its place did.
    #[error("the control plane refuses: {0}")]
    Refused(String),
    /// It did not prove that it knows the token.
    #[error(
        "the answer does not prove that it comes from the control plane that made the token, and is not used: \
         the token is for another control plane, or somebody is between"
    )]
    NotProved,
}

impl From<reqwest::Error> for JoinError {
    fn from(error: reqwest::Error) -> Self {
        Self::Unreachable(error.without_url())
    }
}

/// Joins, or learns again what joining gave before.
///
/// # Errors
/// See [`JoinError`]; nothing has changed here, and it may be tried again.
pub async fn join(server: &JoinUrl, token: &JoinToken, who: &Applicant) -> Result<Joined, JoinError> {
    let client = http::client()?;
    let mut attempts = 1;
    loop {
        let Challenge { challenge, public_key: hub } =
            ask(client.post(server.at(CHALLENGE_PATH))).await.map_err(Refusal::into_error)?;
        let key = JoinKey::of_token(token, &hub);
        let mut request = JoinRequest {
            token_id: token.id(),
            challenge,
            nonce: random::bytes(),
            role: who.role,
            name: who.name.clone(),
            public_key: who.public_key,
            api_key_sha256: who.api_key_sha256,
            proof: [0; 32],
        };
        request.proof = key.of_request(&request);
        match ask::<JoinAnswer>(client.post(server.at(JOIN_PATH)).json(&request)).await {
            Ok(answer) if key.proves_answer(&request, &answer) => return Ok(Joined { answer, hub }),
            Ok(_) => return Err(JoinError::NotProved),
            Err(Refusal::Problem(problem)) if problem.code == STALE && attempts < ATTEMPTS_MAX => {
                attempts += 1;
            }
            Err(refusal) => return Err(refusal.into_error()),
        }
    }
}

/// The code of a refusal that the next attempt may not meet.
const STALE: &str = "stale_challenge";

enum Refusal {
    Problem(Problem),
    Error(JoinError),
}

impl Refusal {
    fn into_error(self) -> JoinError {
        match self {
            Self::Problem(Problem { message, hint, .. }) => {
                let text = [Some(message), hint].into_iter().flatten().collect::<Vec<_>>().join(" ");
                // Anybody may have written it: a terminal must not be told what to do.
                JoinError::Refused(text.chars().filter(|c| !c.is_control()).take(1_000).collect())
            }
            Self::Error(error) => error,
        }
    }
}

impl From<reqwest::Error> for Refusal {
    fn from(error: reqwest::Error) -> Self {
        Self::Error(error.into())
    }
}

#[derive(Deserialize)]
struct ProblemBody {
    error: Problem,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    message: String,
    hint: Option<String>,
}

async fn ask<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, Refusal> {
    let response = request.send().await?;
    let status = response.status();
    let strange = || Refusal::Error(JoinError::Strange(status));
    let body = body(response).await?.ok_or_else(strange)?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| strange());
    }
    let problem: ProblemBody = serde_json::from_slice(&body).map_err(|_| strange())?;
    Err(Refusal::Problem(problem.error))
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
mod tests {
    use super::*;
    use axum::{Json, Router, routing::post};
    use serde_json::json;
    use wisehosting_network::PrivateKey;

    fn who() -> Applicant {
        Applicant {
            role: Role::Worker,
            name: "worker-3".parse().unwrap(),
            public_key: PrivateKey::generate().public_key(),
            api_key_sha256: [1; 32],
        }
    }

    fn answer() -> JoinAnswer {
        JoinAnswer {
            address: "10.50.0.128/24".parse().unwrap(),
            hub_address: "10.50.0.1".parse().unwrap(),
            hub_endpoint: "198.51.100.1:51821".parse().unwrap(),
            url: "http://10.50.0.1:8081".to_owned(),
            mtu: 1420,
            proof: [0; 32],
        }
    }

    /// Something that answers in the place of a control plane.
    async fn serve(router: Router) -> JoinUrl {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn challenge(own: &PrivateKey) -> Json<Challenge> {
        Json(Challenge { challenge: vec![1; 56], public_key: own.public_key() })
    }

    #[tokio::test]
    async fn who_does_not_know_the_token_is_not_believed() {
        let own = PrivateKey::generate();
        let impostor = Router::new()
            .route(CHALLENGE_PATH, post(async move || challenge(&own)))
            .route(JOIN_PATH, post(async || Json(answer())));
        let refused = join(&serve(impostor).await, &JoinToken::generate(), &who()).await;
        assert!(matches!(refused, Err(JoinError::NotProved)), "{refused:?}");
    }

    #[tokio::test]
    async fn an_answer_that_was_recorded_is_not_believed_again() {
        let (token, own) = (JoinToken::generate(), PrivateKey::generate());
        let (verifier, private) = (token.verifier(), own.clone());
        let recorded = std::sync::Arc::new(std::sync::OnceLock::<JoinAnswer>::new());
        let once = move |Json(request): Json<JoinRequest>| {
            let key = JoinKey::of_control_plane(&private, &verifier);
            assert!(key.proves_request(&request));
            let proved = || JoinAnswer { proof: key.of_answer(&request, &answer()), ..answer() };
            let said = recorded.get_or_init(proved).clone();
            async move { Json(said) }
        };
        let hub = own.public_key();
        let server = Router::new()
            .route(CHALLENGE_PATH, post(async move || challenge(&own)))
            .route(JOIN_PATH, post(once));
        let (server, who) = (serve(server).await, who());
        let first = join(&server, &token, &who).await.unwrap();
        assert_eq!((first.hub, first.answer.address), (hub, answer().address));
        let again = join(&server, &token, &who).await;
        assert!(matches!(again, Err(JoinError::NotProved)), "{again:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_repeated_without_what_a_terminal_would_obey() {
        let body = json!({ "error": { "code": "x", "message": "No.\u{1b}[2J", "hint": "Go\naway." } });
        let server =
            Router::new().route(CHALLENGE_PATH, post(async move || (StatusCode::FORBIDDEN, Json(body))));
        let refused = join(&serve(server).await, &JoinToken::generate(), &who()).await.unwrap_err();
        assert_eq!(refused.to_string(), "the control plane refuses: No.[2J Goaway.");
        let server = serve(Router::new()).await;
        let strange = join(&server, &JoinToken::generate(), &who()).await;
        assert!(matches!(strange, Err(JoinError::Strange(StatusCode::NOT_FOUND))), "{strange:?}");
    }

    #[test]
    fn an_address_may_be_plain() {
        for good in ["http://198.51.100.1:8081", "https://hosting.example.org/", "http://[::1]:1/x"] {
            assert!(good.parse::<JoinUrl>().is_ok(), "{good}");
        }
        for bad in ["", "198.51.100.1:8081", "ftp://a", "https://a:b@c", "https://a/?b", "https://a/#b"] {
            assert!(bad.parse::<JoinUrl>().is_err(), "{bad}");
        }
        let url: JoinUrl = "https://a/b/".parse().unwrap();
        assert_eq!(url.at(JOIN_PATH).as_str(), "https://a/b/v1/join");
    }
}
