//! The gateway's own API, for those in the mesh who hold its token.
//!
//! Invariant: everything but `GET /health` asks for the token, and nothing is said before it was right.

mod forwards;
mod routes;

use crate::{forwards::keeper::Keeper, traefik::routes::HttpRoutes};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::{error::Error, sync::Arc};
use subtle::ConstantTimeEq;

/// More than any request takes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// The header of agents that do not speak `Authorization: Bearer`.
const TOKEN_HEADER: &str = "x-agent-token";

/// All of it. Routes of HTTP need a Traefik.
pub fn router(forwards: Keeper, http_routes: Option<HttpRoutes>, token: SecretString) -> Router {
    forwards::router(forwards)
        .merge(routes::router(http_routes))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .fallback(async || answer(StatusCode::NOT_FOUND, "not_found", "there is nothing here"))
        .layer(from_fn_with_state(Arc::new(token), require_token))
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
}

async fn require_token(State(token): State<Arc<SecretString>>, request: Request, next: Next) -> Response {
    let right = given_token(request.headers())
        .is_some_and(|given| bool::from(given.as_bytes().ct_eq(token.expose_secret().as_bytes())));
    if right {
        return next.run(request).await;
    }
    tracing::warn!(path = request.uri().path(), "a request without the right token is refused");
    answer(StatusCode::UNAUTHORIZED, "unauthorized", "send the gateway's token as Authorization: Bearer")
}

fn given_token(headers: &HeaderMap) -> Option<&str> {
    let bearer = || headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ");
    bearer().or_else(|| headers.get(TOKEN_HEADER)?.to_str().ok())
}

/// What a body that is none gets.
fn unreadable(rejection: &JsonRejection) -> Response {
    answer(rejection.status(), "invalid", &rejection.body_text())
}

/// What a field that cannot be used gets.
fn invalid(field: &str, reason: &str) -> Response {
    answer(StatusCode::UNPROCESSABLE_ENTITY, "invalid", &format!("{field}: {reason}"))
}

/// What a request gets that failed inside; the chain goes into the log.
fn failed(error: &(dyn Error + 'static)) -> Response {
    tracing::error!(error, "a request to the gateway failed");
    let message = format!("{error}: the gateway's log says why");
    answer(StatusCode::INTERNAL_SERVER_ERROR, "failed", &message)
}

fn answer(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
}
