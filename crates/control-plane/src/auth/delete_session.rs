//! `DELETE /v1/session`: sign out.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use wisehosting_store::{pool, users};

use super::{SignedIn, cookie, session_token, token};
use crate::{
    error::{ErrorBody, Problem},
    state::AppState,
};

/// Sign out: ends the session of the cookie.
#[utoipa::path(
    delete, path = "/v1/session", tag = "session", operation_id = "delete_session",
    responses(
        (status = 204, description = "Signed out."),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn delete_session(
    State(state): State<AppState>,
    headers: HeaderMap,
    SignedIn { mut db, .. }: SignedIn,
) -> Result<impl IntoResponse, Problem> {
    let base_url = &state.config.public.base_url;
    if let Some(session) = session_token(&headers, base_url) {
        users::delete_session(&mut db, &token::hash(session)).await?;
        pool::commit(db).await?;
    }
    let removed = cookie("", 0, base_url);
    Ok((StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, removed)])))
}
