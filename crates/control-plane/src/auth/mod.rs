//! Who asks: a browser with a session cookie, or a program with an API token.
//!
//! [`SignedIn`] is how a handler gets at the database, so none can forget to ask who it is. Secrets are stored and
//! compared as hashes only; a request that changes something by the power of a cookie must come from our own pages.

pub mod create_session;
pub mod delete_session;
pub mod me;
mod origin;
pub mod token;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
};
use wisehosting_store::{
    StoreError, Transaction,
    users::{self, User},
};

use crate::{config::BaseUrl, error::Problem, state::AppState};

pub use origin::Origin;

/// Name of the session cookie with TLS: a browser takes a cookie of such a name from this host alone, so no app on a
/// sibling host name can put its own in the place of ours.
pub const COOKIE: &str = "__Host-wh_session";
/// Its name without TLS, where browsers do not take the other.
pub const COOKIE_PLAIN: &str = "wh_session";

/// A request of a known user, and its transaction.
pub struct SignedIn {
    /// Who.
    pub user: User,
    /// Rolled back unless the handler commits it.
    pub db: Transaction,
}

impl FromRequestParts<AppState> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let credential = Credential::find(&parts.headers, &state.config.public.base_url)
            .ok_or_else(Problem::unauthenticated)?;
        if let Credential::Session(_) = credential {
            refuse_forgery(parts, state)?;
        }
        let mut db = state.begin().await?;
        let (user, refusal): (_, fn() -> Problem) = match credential {
            Credential::Session(token) => (
                users::by_session(&mut db, &token::hash(token), state.clock.now()).await,
                Problem::unauthenticated,
            ),
            Credential::ApiToken(token) => {
                (users::by_api_token(&mut db, &token::hash(token)).await, refused_token)
            }
        };
        match user {
            Ok(user) => Ok(Self { user, db }),
            Err(StoreError::NotFound { .. }) => Err(refusal()),
            Err(error) => Err(error.into()),
        }
    }
}

/// 401: the API token is nobody's. Worth a line in the log: a token was guessed, or revoked and is still in use.
fn refused_token() -> Problem {
    tracing::warn!("a request with an unknown API token was refused");
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "The API token is not valid.")
        .hint("Make one with `wisehosting-control-plane token create`.")
}

/// A cookie is sent by the browser whoever asks it to: what changes something must come from our own pages.
fn refuse_forgery(parts: &Parts, state: &AppState) -> Result<(), Problem> {
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if reads || Origin::of(&parts.headers, &state.config.public.base_url) == Origin::Same {
        return Ok(());
    }
    let message = "This request did not come from the dashboard's own pages.";
    Err(Problem::new(StatusCode::FORBIDDEN, "cross_site", message)
        .hint("Programs use an API token in the Authorization header instead of the cookie."))
}

/// What a request proves its user with.
enum Credential<'a> {
    Session(&'a str),
    ApiToken(&'a str),
}

impl<'a> Credential<'a> {
    fn find(headers: &'a HeaderMap, base_url: &BaseUrl) -> Option<Self> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            return scheme.eq_ignore_ascii_case("bearer").then(|| Self::ApiToken(token.trim()));
        }
        session_token(headers, base_url).map(Self::Session)
    }
}

fn cookie_name(base_url: &BaseUrl) -> &'static str {
    if base_url.is_https() { COOKIE } else { COOKIE_PLAIN }
}

/// The session cookie's value.
fn session_token<'a>(headers: &'a HeaderMap, base_url: &BaseUrl) -> Option<&'a str> {
    let wanted = cookie_name(base_url);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted).then_some(value))
}

/// The `Set-Cookie` value that keeps `token` for `max_age_s` seconds; 0 removes it.
fn cookie(token: &str, max_age_s: i64, base_url: &BaseUrl) -> String {
    let name = cookie_name(base_url);
    let secure = if base_url.is_https() { "; Secure" } else { "" };
    format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_s}{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_url(text: &str) -> BaseUrl {
        BaseUrl::try_from(text.to_owned()).unwrap()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_session_cookie_is_found_among_others() {
        let headers = headers(&[("cookie", "a=1; wh_session=abc; __Host-wh_session=def; b=2")]);
        assert_eq!(session_token(&headers, &base_url("http://a")), Some("abc"));
        assert_eq!(session_token(&headers, &base_url("https://a")), Some("def"));
        let found = Credential::find(&headers, &base_url("https://a"));
        assert!(matches!(found, Some(Credential::Session("def"))));
    }

    #[test]
    fn an_authorization_header_counts_alone() {
        let bearer = headers(&[("authorization", "Bearer t"), ("cookie", "wh_session=abc")]);
        assert!(matches!(Credential::find(&bearer, &base_url("http://a")), Some(Credential::ApiToken("t"))));
        let other = headers(&[("authorization", "Basic eDp5"), ("cookie", "wh_session=abc")]);
        assert!(Credential::find(&other, &base_url("http://a")).is_none());
    }

    #[test]
    fn the_cookie_is_out_of_reach_for_scripts_and_other_sites() {
        assert_eq!(
            cookie("t", 60, &base_url("https://a")),
            "__Host-wh_session=t; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
        );
        assert_eq!(
            cookie("t", 60, &base_url("http://a")),
            "wh_session=t; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"
        );
    }
}
