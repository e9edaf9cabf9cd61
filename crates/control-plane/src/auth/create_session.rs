//! `POST /v1/session`: a one-time sign-in link becomes a session cookie.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use time::Duration;
use utoipa::ToSchema;
use wisehosting_node::random;
use wisehosting_store::{StoreError, pool, users};

use super::{Origin, cookie, me::Me, token};
use crate::{
    error::{ErrorBody, Problem},
    extract::JsonBody,
    state::AppState,
};

const SESSION: Duration = Duration::days(30);

/// What a sign-in link carries.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// The part of the link after `/#/sign-in/`.
    #[schema(value_type = String)]
    token: SecretString,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("This sign-in link was used before or has expired.")]
    BadLink,
    #[error("This request did not come from the dashboard's own pages.")]
    CrossSite,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::BadLink => Self::new(StatusCode::UNAUTHORIZED, "bad_link", text)
                .hint("Ask for a new one: `wisehosting-control-plane login-link --email <address>`."),
            Error::CrossSite => Self::new(StatusCode::FORBIDDEN, "cross_site", text),
        }
    }
}

/// Sign in with a one-time link.
#[utoipa::path(
    post, path = "/v1/session", tag = "session", operation_id = "create_session", security(()),
    request_body = CreateSession,
    responses(
        (status = 201, description = "Signed in; the answer sets the session cookie.", body = Me),
        (status = 401, description = "The link was used before or has expired.", body = ErrorBody),
        (status = 403, description = "Another site's page asked.", body = ErrorBody),
    ),
)]
pub async fn create_session(
    State(state): State<AppState>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateSession>,
) -> Result<impl IntoResponse, Problem> {
    let base_url = &state.config.public.base_url;
    if Origin::of(&headers, base_url) == Origin::Other {
        return Err(Error::CrossSite.into());
    }
    let now = state.clock.now();
    let mut db = state.begin().await?;
    let link = token::hash(body.token.expose_secret());
    let user = match users::redeem_login_link(&mut db, &link, now).await {
        Err(StoreError::NotFound { .. }) => return Err(Error::BadLink.into()),
        user => user?,
    };
    let session = token::from_random("", random::bytes());
    let hash = token::hash(session.expose_secret());
    users::create_session(&mut db, &hash, user.id, now, now + SESSION).await?;
    users::forget_expired(&mut db, now).await?;
    pool::commit(db).await?;
    let cookie = cookie(session.expose_secret(), SESSION.whole_seconds(), base_url);
    Ok((StatusCode::CREATED, AppendHeaders([(header::SET_COOKIE, cookie)]), Json(Me::from(user))))
}
