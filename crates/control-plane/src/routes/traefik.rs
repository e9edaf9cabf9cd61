//! `GET /v1/traefik/proxy-config`: the route table for a Traefik that polls, as its HTTP provider reads it. And
//! `GET /v1/traefik/config?worker=NAME`: as much of it as leads to one worker, for a Traefik on that worker.
//!
//! `{}` would end all routes, so anything but certainty is a 503, on which Traefik keeps what it has.

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use wisehosting_domain::{
    name::Label,
    traefik::{Front, render},
};
use wisehosting_store::{routes, workers};

use crate::{error::Problem, state::AppState};

/// Serves the document to whoever has the proxies' token.
///
/// # Errors
/// 401 without the token; 503 while the table is not certain.
pub async fn proxy_config(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    authorize(&state, &headers)?;
    let mut transaction = state.begin().await?;
    let table = routes::load(&mut transaction).await?;
    Ok(Json(render(&table, &Front::default())).into_response())
}

/// Who asks.
#[derive(Debug, Deserialize)]
pub struct Asking {
    worker: Label,
}

/// Serves the part of the document that leads to a worker's instances to whoever has the proxies' token.
///
/// # Errors
/// 401 without the token; 404 for a worker that there is not; 503 while the table is not certain.
pub async fn worker_config(
    State(state): State<AppState>,
    headers: HeaderMap,
    Query(Asking { worker }): Query<Asking>,
) -> Result<Response, Problem> {
    authorize(&state, &headers)?;
    let mut transaction = state.begin().await?;
    let all = workers::list(&mut transaction).await?;
    let Some(worker) = all.into_iter().find(|one| one.name == worker) else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no_such_worker",
            "There is no worker of this name.",
        ));
    };
    let mut table = routes::load(&mut transaction).await?;
    for route in table.routes.values_mut() {
        route.upstreams.retain(|upstream| upstream.address.ip() == worker.address);
    }
    Ok(Json(render(&table, &Front::default())).into_response())
}

fn authorize(state: &AppState, headers: &HeaderMap) -> Result<(), Problem> {
    if is_authorized(state, headers) {
        return Ok(());
    }
    tracing::warn!("refused a request for the proxy configuration: wrong token");
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "wrong_token", "The token is wrong.");
    Err(problem
        .hint("Send `Authorization: Bearer` with the token of the setting secrets.traefik_token_file."))
}

fn is_authorized(state: &AppState, headers: &HeaderMap) -> bool {
    let sent = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let token = sent.and_then(|sent| sent.strip_prefix(b"Bearer ")).unwrap_or_default();
    let expected = state.secrets.traefik_token.expose_secret().as_bytes();
    !expected.is_empty() && token.ct_eq(expected).into()
}
