//! `GET /v1/{workers,edges}/ws`: the upgrade to the signed channel.
//!
//! Opened by a token only, never by an API key. The two sides tell each other where to start counting.

use std::error::Error;

use axum::{
    extract::{State, WebSocketUpgrade},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use wisehosting_node::random;
use wisehosting_protocol::{
    HEADER_START, HEADER_VERSION, MESSAGE_BYTES_MAX,
    handshake::{Refusal, Request},
};

use super::{Node, session};
use crate::{
    error::Problem,
    nodes::{
        self, Role, token,
        token_endpoints::{bearer, wrong_credentials},
    },
    state::AppState,
};

/// Read and write buffers of a connection; the library's own default is 128 KiB each.
const BUFFER_BYTES: usize = 8 * 1024;

/// The channel of a worker.
///
/// # Errors
/// 401: no valid token; 400: a missing header; 426: another version of the protocol.
pub async fn worker_channel(
    State(state): State<AppState>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    open(state, Role::Worker, &headers, upgrade)
}

/// The channel of an edge.
///
/// # Errors
/// 401: no valid token; 400: a missing header; 426: another version of the protocol.
pub async fn edge_channel(
    State(state): State<AppState>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    open(state, Role::Edge, &headers, upgrade)
}

fn open(
    state: AppState,
    role: Role,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let token = bearer(headers).unwrap_or_default();
    let name = token::verify(&state.secrets.jwt, role, token, state.clock.now());
    let declared = name.and_then(|name| Some((nodes::signing_key(&state, role, &name)?, name)));
    let Some((key, name)) = declared else {
        tracing::warn!(node.role = %role, "refused a connection: wrong or old token");
        return Err(wrong_credentials());
    };
    let node = Node { role, name };
    let request = Request { version: number(headers, HEADER_VERSION), start: number(headers, HEADER_START) };
    let accept_start = random::sequence_start();
    let connection = request.accept(key, accept_start).map_err(|refusal| {
        let error = &refusal as &dyn Error;
        tracing::warn!(node.role = %node.role, node.name = %node.name, error, "refused a connection");
        problem(refusal)
    })?;
    let mut response = upgrade
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(2 * MESSAGE_BYTES_MAX)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| session::run(socket, connection, node, state));
    response.headers_mut().insert(HEADER_START, accept_start.into());
    Ok(response)
}

fn problem(refusal: Refusal) -> Problem {
    let message = refusal.to_string();
    match refusal {
        Refusal::Header(_) => Problem::new(StatusCode::BAD_REQUEST, "bad_header", message),
        Refusal::OtherVersion(_) => Problem::new(StatusCode::UPGRADE_REQUIRED, "other_protocol", message)
            .hint("Install the same release on this node and on the control plane."),
    }
}

fn number(headers: &HeaderMap, name: &'static str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
