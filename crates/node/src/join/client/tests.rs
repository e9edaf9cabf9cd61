//! What a machine makes of good answers, of bad ones, and of refusals.

use super::*;
use axum::{Json, Router, routing::post};
use serde_json::Value;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use super::super::messages::JoinRequest;

fn who() -> Applicant {
    Applicant {
        role: Role::Worker,
        name: "worker-3".parse().unwrap(),
        private_key: PrivateKey::generate(),
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

/// What the control plane has in common with who has sent this request.
fn key(own: &PrivateKey, token: &JoinToken, request: &JoinRequest) -> JoinKey {
    let key = JoinKey::of_control_plane(own, &token.verifier(), &request.public_key).unwrap();
    assert!(key.open(request).is_some());
    key
}

/// A control plane that says this to proved requests, and how often it was asked.
async fn control_plane<R>(
    own: PrivateKey,
    say: impl Fn(JoinRequest) -> R + Clone + Send + Sync + 'static,
) -> (JoinUrl, Arc<AtomicUsize>)
where
    R: axum::response::IntoResponse + Send + 'static,
{
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let join = async move |Json(request): Json<JoinRequest>| {
        counted.fetch_add(1, Ordering::Relaxed);
        say(request)
    };
    let router =
        Router::new().route(CHALLENGE_PATH, post(async move || challenge(&own))).route(JOIN_PATH, post(join));
    (serve(router).await, asked)
}

#[tokio::test]
async fn an_answer_that_was_recorded_is_not_believed_again() {
    let (token, own) = (Arc::new(JoinToken::generate()), PrivateKey::generate());
    let (known, private) = (Arc::clone(&token), own.clone());
    let recorded = Arc::new(OnceLock::<JoinAnswer>::new());
    let once = move |request: JoinRequest| {
        let key = key(&private, &known, &request);
        let proved = || JoinAnswer { proof: key.of_answer(&request, &answer()), ..answer() };
        Json(recorded.get_or_init(proved).clone())
    };
    let hub = own.public_key();
    let ((server, _), who) = (control_plane(own, once).await, who());
    let first = join(&server, &token, &who).await.unwrap();
    assert_eq!((first.hub, first.answer.address), (hub, answer().address));
    let again = join(&server, &token, &who).await;
    assert!(matches!(again, Err(JoinError::NotProved)), "{again:?}");
}

fn refused(code: &str, proof: impl FnOnce(&Refusal) -> Vec<u8>) -> (StatusCode, Json<Value>) {
    let message = "No.\u{1b}[2J".to_owned();
    let error = Refusal { code: code.to_owned(), message, hint: Some("Go away.".to_owned()) };
    let proof = proof(&error);
    (StatusCode::FORBIDDEN, Json(serde_json::to_value(RefusalBody { error, proof }).unwrap()))
}

#[tokio::test]
async fn a_refusal_that_is_proved_is_the_last_word() {
    let (token, own) = (Arc::new(JoinToken::generate()), PrivateKey::generate());
    let (known, private) = (Arc::clone(&token), own.clone());
    let say = move |request: JoinRequest| {
        let key = key(&private, &known, &request);
        refused("removed", |refusal| key.of_refusal(&request, refusal).to_vec())
    };
    let (server, asked) = control_plane(own, say).await;
    let error = join(&server, &token, &who()).await.unwrap_err();
    assert_eq!(error.to_string(), "the control plane refuses: No.\u{1b}[2J Go away.");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// Somebody on the way answers first, once: the control plane's own answer to the next request counts.
#[tokio::test]
async fn a_forged_refusal_ends_nothing() {
    let (token, own) = (Arc::new(JoinToken::generate()), PrivateKey::generate());
    let (known, private) = (Arc::clone(&token), own.clone());
    let forged = Arc::new(OnceLock::new());
    let say = move |request: JoinRequest| {
        if forged.set(()).is_ok() {
            return refused("removed", |_| vec![0; 32]);
        }
        let key = key(&private, &known, &request);
        let answer = JoinAnswer { proof: key.of_answer(&request, &answer()), ..answer() };
        (StatusCode::OK, Json(serde_json::to_value(answer).unwrap()))
    };
    let (server, asked) = control_plane(own, say).await;
    join(&server, &token, &who()).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn of_a_refusal_that_is_not_proved_no_word_is_shown() {
    for code in ["removed", "wrong_token"] {
        let say = move |_| refused(code, |_| Vec::new());
        let (server, asked) = control_plane(PrivateKey::generate(), say).await;
        let error = join(&server, &JoinToken::generate(), &who()).await.unwrap_err();
        let text = error.to_string();
        assert!(!text.contains("No.") && !text.contains("Go away."), "{text}");
        assert_eq!(code == "wrong_token", text.contains("there is no such join token"), "{text}");
        assert_eq!(asked.load(Ordering::Relaxed), ATTEMPTS_MAX);
    }
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
