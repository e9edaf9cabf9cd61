//! `GET /v1/traefik/proxy-config`: the route table for a Traefik that polls, as its HTTP provider reads it.
//!
//! `{}` would end all routes, so anything but certainty is a 503, on which Traefik keeps what it has.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;
use wisehosting_domain::traefik::{Front, render};
use wisehosting_store::routes;

use crate::{error::Problem, state::AppState};

/// Serves the document to whoever has the proxies' token.
///
/// # Errors
/// 401 without the token; 503 while the table is not certain.
pub async fn proxy_config(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    if !is_authorized(&state, &headers) {
        tracing::warn!("refused a request for the proxy configuration: wrong token");
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong_token", "The token is wrong.")
            .hint("Send `Authorization: Bearer` with the token of the setting secrets.traefik_token_file."));
    }
    let mut transaction = state.begin().await?;
    let table = routes::load(&mut transaction).await?;
    Ok(Json(render(&table, &Front::default())).into_response())
}

fn is_authorized(state: &AppState, headers: &HeaderMap) -> bool {
    let sent = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let token = sent.and_then(|sent| sent.strip_prefix(b"Bearer ")).unwrap_or_default();
    let expected = state.secrets.traefik_token.expose_secret().as_bytes();
    !expected.is_empty() && token.ct_eq(expected).into()
}
