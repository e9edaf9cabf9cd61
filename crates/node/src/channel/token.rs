//! The node's token: got by registering, kept fresh by the API key.

use super::{
    ConnectError, Identity, SetUpError,
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
        let mut current = self.current.subscribe();
        loop {
            let refresh_at = current.borrow_and_update().as_ref().map(|token| token.refresh_at);
            let Some(refresh_at) = refresh_at else {
                // It cannot fail: the sender is here.
                let _ = current.changed().await;
                continue;
            };
            let left = Duration::try_from(refresh_at - self.clock.now()).unwrap_or_default();
            tokio::time::sleep(left.max(REFRESH_INTERVAL_MIN)).await;
            if let Err(error) = self.request(self.refresh()).await {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "cannot refresh the token; trying again in a minute"
                );
                tokio::time::sleep(RETRY_AFTER).await;
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
        let path = format!("{}/{endpoint}", self.identity.role.path());
        self.client.post(self.identity.endpoint.url.join(&path))
    }

    async fn request(&self, request: RequestBuilder) -> Result<SecretString, ConnectError> {
        let response = request.send().await.map_err(ConnectError::Token)?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(ConnectError::Refused);
        }
        let response = response.error_for_status().map_err(ConnectError::Token)?;
        let TokenResponse { token: secret, token_expires_at: expires_at } =
            response.json().await.map_err(ConnectError::Token)?;
        let refresh_at = refresh_at(self.clock.now(), expires_at);
        self.current.send_replace(Some(Token { secret: secret.clone(), expires_at, refresh_at }));
        Ok(secret)
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

    #[test]
    fn a_token_is_refreshed_two_minutes_before_its_end_or_at_half_its_time() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for (lifetime_s, refresh_s) in [(900, 780), (100, 50), (-100, -100)] {
            let at = |seconds| now + time::Duration::seconds(seconds);
            assert_eq!(refresh_at(now, at(lifetime_s)), at(refresh_s));
        }
    }
}
