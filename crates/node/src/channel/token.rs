//! The node's token: got by registering, kept fresh by the API key.

use super::{
    ConnectError, Identity, SetUpError, path_of,
    registration::{RegisterRequest, TokenResponse},
};
use crate::{clock::Clock, http};
use reqwest::{Client, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use std::{error::Error, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::sync::watch;

/// How long before its end a token is refreshed; a short-lived one when half of its time is over.
const REFRESH_BEFORE: Duration = Duration::from_secs(120);
/// A token that ends at once, as one does if the clocks differ, must not become a flood of requests.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How long after a failed refresh to try again.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// A token with less left than this is not worth an attempt to connect.
const USABLE: Duration = Duration::from_secs(5);

/// Holds the token that is valid now.
pub(super) struct TokenKeeper {
    client: Client,
    identity: Identity,
    clock: Arc<dyn Clock>,
    current: watch::Sender<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    secret: SecretString,
    expires_at: OffsetDateTime,
    refresh_at: OffsetDateTime,
}

impl TokenKeeper {
    pub(super) fn new(identity: Identity, clock: Arc<dyn Clock>) -> Result<Self, SetUpError> {
        Ok(Self { client: http::client()?, identity, clock, current: watch::Sender::new(None) })
    }

    /// A token for a new connection; registers the node if there is none.
    pub(super) async fn get(&self) -> Result<SecretString, ConnectError> {
        let now = self.clock.now();
        let current = self.current.borrow().clone().filter(|token| now + USABLE < token.expires_at);
        match current {
            Some(token) => Ok(token.secret),
            None => self.request(self.registration()).await,
        }
    }

    /// Drops the token: the hub does not take it.
    pub(super) fn forget(&self) {
        self.current.send_replace(None);
    }

    /// Refreshes the token shortly before it ends, for ever.
    pub(super) async fn keep_fresh(&self) {
        let refresh = || async { self.request(self.refresh()).await.map(drop) };
        self.keep_fresh_by(refresh, tokio::time::sleep).await;
    }

    async fn keep_fresh_by<R, S>(&self, refresh: impl Fn() -> R, sleep: impl Fn(Duration) -> S)
    where
        R: Future<Output = Result<(), ConnectError>>,
        S: Future<Output = ()>,
    {
        let mut current = self.current.subscribe();
        loop {
            let refresh_at = current.borrow_and_update().as_ref().map(|token| token.refresh_at);
            let Some(refresh_at) = refresh_at else {
                // It cannot fail: the sender is here.
                let _ = current.changed().await;
                continue;
            };
            let left = Duration::try_from(refresh_at - self.clock.now()).unwrap_or_default();
            sleep(left.max(REFRESH_INTERVAL_MIN)).await;
            while let Err(error) = refresh().await {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "cannot refresh the token; trying again in a minute"
                );
                sleep(RETRY_AFTER).await;
            }
        }
    }

    fn registration(&self) -> RequestBuilder {
        self.post("register").json(&RegisterRequest {
            name: self.identity.endpoint.name.clone(),
            api_key: self.identity.api_key.clone(),
            version: self.identity.version.to_owned(),
        })
    }

    fn refresh(&self) -> RequestBuilder {
        self.post("refresh-token").bearer_auth(self.identity.api_key.expose_secret())
    }

    fn post(&self, endpoint: &str) -> RequestBuilder {
        let path = format!("{}/{endpoint}", path_of(self.identity.role));
        self.client.post(self.identity.endpoint.url.join(&path))
    }

    async fn request(&self, request: RequestBuilder) -> Result<SecretString, ConnectError> {
        let response = request.send().await.map_err(ConnectError::Token)?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(ConnectError::Refused);
        }
        let response = response.error_for_status().map_err(ConnectError::Token)?;
        Ok(self.take(response.json().await.map_err(ConnectError::Token)?))
    }

    /// From now on this is the token.
    fn take(&self, response: TokenResponse) -> SecretString {
        let TokenResponse { token: secret, token_expires_at: expires_at } = response;
        let refresh_at = refresh_at(self.clock.now(), expires_at);
        self.current.send_replace(Some(Token { secret: secret.clone(), expires_at, refresh_at }));
        secret
    }
}

/// When to refresh a token that is given now and ends at `expires_at`.
fn refresh_at(now: OffsetDateTime, expires_at: OffsetDateTime) -> OffsetDateTime {
    let lifetime = Duration::try_from(expires_at - now).unwrap_or_default();
    expires_at - REFRESH_BEFORE.min(lifetime / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        channel::tls_server::{Negotiated, TlsServer},
        clock::SystemClock,
    };
    use reqwest::Certificate;
    use rustls::version::{TLS12, TLS13};
    use std::sync::Mutex;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
    };

    /// What agents have, but that they trust this server.
    fn keeper(server: &TlsServer) -> TokenKeeper {
        let certificate = Certificate::from_der(&server.certificate).expect("a certificate");
        let client = http::builder().tls_certs_only([certificate]).build().expect("a client");
        let identity = server.identity.clone();
        TokenKeeper { client, identity, clock: Arc::new(SystemClock), current: watch::Sender::new(None) }
    }

    #[tokio::test]
    async fn the_key_is_sent_over_tls_1_3_and_http_1_1_whatever_else_is_offered() {
        let server = TlsServer::start(&[&TLS12, &TLS13]).await;
        let keeper = keeper(&server);
        let control_plane = async {
            let (mut stream, negotiated) = server.accepted.await.expect("it runs").expect("a connection");
            assert_eq!(negotiated, Negotiated::wanted());
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut request).await.expect("a request"), 0);
            }
            let body = r#"{"token":"token-1","token_expires_at":"2026-09-21T14:41:39Z"}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}",
                body.len()
            );
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.expect("answered");
        };
        let (token, ()) = tokio::join!(keeper.get(), control_plane);
        assert_eq!(token.expect("a token").expose_secret(), "token-1");
    }

    #[tokio::test]
    async fn the_key_is_not_sent_over_tls_1_2() {
        let server = TlsServer::start(&[&TLS12]).await;
        let refused = keeper(&server).get().await;
        assert!(matches!(refused, Err(ConnectError::Token(_))), "{refused:?}");
        server.accepted.await.expect("it runs").expect_err("no request came over it");
    }

    /// A clock that stands until it is set.
    #[derive(Default)]
    struct Hands(Mutex<Duration>);

    impl Hands {
        fn read(&self) -> Duration {
            *self.0.lock().expect("not poisoned")
        }
    }

    impl Clock for Hands {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::UNIX_EPOCH + self.read()
        }
    }

    #[tokio::test]
    async fn a_failed_refresh_is_tried_again_each_minute() {
        let clock = Arc::new(Hands::default());
        let server = TlsServer::start(&[&TLS13]).await;
        let keeper = TokenKeeper { clock: clock.clone(), ..keeper(&server) };
        let give = || {
            let token_expires_at = clock.now() + Duration::from_secs(900);
            keeper.take(TokenResponse { token: "token".into(), token_expires_at });
        };
        give();
        let (asked, done) = (Mutex::new(Vec::new()), Notify::new());
        let refresh = async || {
            asked.lock().expect("not poisoned").push(clock.read().as_secs());
            let count = asked.lock().expect("not poisoned").len();
            match count {
                1..=3 => return Err(ConnectError::Refused),
                4 => give(),
                _ => {
                    done.notify_one();
                    std::future::pending::<()>().await;
                }
            }
            Ok(())
        };
        let sleep = async |wait| *clock.0.lock().expect("not poisoned") += wait;
        tokio::select! {
            () = keeper.keep_fresh_by(refresh, sleep) => {}
            () = done.notified() => {}
        }
        assert_eq!(asked.into_inner().expect("not poisoned"), [780, 840, 900, 960, 1740]);
    }

    #[test]
    fn a_token_is_refreshed_two_minutes_before_its_end_or_at_half_its_time() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for (lifetime_s, refresh_s) in [(900, 780), (100, 50), (-100, -100)] {
            let at = |seconds| now + time::Duration::seconds(seconds);
            assert_eq!(refresh_at(now, at(lifetime_s)), at(refresh_s));
        }
    }
}
