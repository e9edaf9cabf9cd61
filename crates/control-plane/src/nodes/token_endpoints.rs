//! `POST /v1/{workers,edges}/register` and `…/refresh-token`: an API key for a token.
//!
//! The only places where an API key is taken. A wrong one is a 401 that does not say what was wrong, and one line in
//! the log that does not hold it.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use secrecy::ExposeSecret as _;
use wisehosting_domain::name::Label;
use wisehosting_node::channel::registration::{RegisterRequest, TokenResponse};

use super::{Role, by_api_key, token};
use crate::{error::Problem, extract::JsonBody, state::AppState};

type Answer = Result<Json<TokenResponse>, Problem>;

/// Registers a worker.
///
/// # Errors
/// 401: no worker of this name has this API key.
pub async fn register_worker(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<RegisterRequest>,
) -> Answer {
    register(&state, Role::Worker, &request)
}

/// Registers an edge.
///
/// # Errors
/// 401: no edge of this name has this API key.
pub async fn register_edge(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<RegisterRequest>,
) -> Answer {
    register(&state, Role::Edge, &request)
}

/// Gives a worker a fresh token for its API key.
///
/// # Errors
/// 401: no worker has this API key.
pub async fn refresh_worker(State(state): State<AppState>, headers: HeaderMap) -> Answer {
    refresh(&state, Role::Worker, &headers)
}

/// Gives an edge a fresh token for its API key.
///
/// # Errors
/// 401: no edge has this API key.
pub async fn refresh_edge(State(state): State<AppState>, headers: HeaderMap) -> Answer {
    refresh(&state, Role::Edge, &headers)
}

fn register(state: &AppState, role: Role, request: &RegisterRequest) -> Answer {
    let name = by_api_key(state, role, request.api_key.expose_secret());
    let Some(name) = name.filter(|name| *name == request.name) else {
        tracing::warn!(node.role = %role, node.name = %request.name, "refused a registration: wrong credentials");
        return Err(wrong_credentials());
    };
    tracing::info!(node.role = %role, node.name = %name, node.version = request.version, "registered");
    issue(state, role, &name)
}

fn refresh(state: &AppState, role: Role, headers: &HeaderMap) -> Answer {
    let Some(name) = bearer(headers).and_then(|key| by_api_key(state, role, key)) else {
        tracing::warn!(node.role = %role, "refused a token: wrong credentials");
        return Err(wrong_credentials());
    };
    issue(state, role, &name)
}

fn issue(state: &AppState, role: Role, name: &Label) -> Answer {
    let (token, token_expires_at) =
        token::issue(&state.secrets.jwt, role, name, state.clock.now()).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot sign a token");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The token cannot be signed.")
        })?;
    Ok(Json(TokenResponse { token, token_expires_at }))
}

/// The bearer token of a request.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// 401 for a node, whatever was wrong.
#[must_use]
pub fn wrong_credentials() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "wrong_credentials", "The control plane does not know this node.")
        .hint("Check the node's name and API key here and in the control plane's configuration.")
}
