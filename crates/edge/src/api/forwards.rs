//! `/tcp/forwards` and `/udp/forwards`.

use super::{answer, failed, invalid, unreadable};
use crate::forwards::{
    Forward, Proto, Refusal,
    keeper::{Keeper, KeeperError},
};
use axum::{
    Json, Router,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde::Deserialize;
use serde_json::json;
use std::{net::Ipv4Addr, num::NonZeroU16};

/// A forward as it is asked for; its protocol may be left to the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewForward {
    forward_id: String,
    public_port: NonZeroU16,
    target_ip: Ipv4Addr,
    target_port: NonZeroU16,
    proto: Option<Proto>,
}

pub(super) fn router(keeper: Keeper) -> Router {
    let forwards = |proto: Proto| {
        let list = move |State(keeper): State<Keeper>| async move {
            Json(json!({ "forwards": keeper.list(proto).await }))
        };
        let put = move |State(keeper): State<Keeper>, body: Result<Json<NewForward>, JsonRejection>| {
            put(keeper, proto, body)
        };
        let remove = move |State(keeper): State<Keeper>, Path(id): Path<String>| async move {
            match keeper.remove(proto, id).await {
                Ok(()) => StatusCode::NO_CONTENT.into_response(),
                Err(error) => problem(&error),
            }
        };
        Router::new().route("/forwards", get(list).post(put)).route("/forwards/{id}", delete(remove))
    };
    Router::new().nest("/tcp", forwards(Proto::Tcp)).nest("/udp", forwards(Proto::Udp)).with_state(keeper)
}

async fn put(keeper: Keeper, proto: Proto, body: Result<Json<NewForward>, JsonRejection>) -> Response {
    let Json(new) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    if new.proto.is_some_and(|given| given != proto) {
        return invalid("proto", "it is another one than the path's: leave it out");
    }
    let NewForward { forward_id, public_port, target_ip, target_port, .. } = new;
    let forward = Forward { forward_id, public_port, target_ip, target_port, proto };
    match keeper.put(forward.clone()).await {
        Ok(true) => (StatusCode::CREATED, Json(forward)).into_response(),
        Ok(false) => (StatusCode::OK, Json(forward)).into_response(),
        Err(error) => problem(&error),
    }
}

fn problem(error: &KeeperError) -> Response {
    match error {
        KeeperError::Refused(refusal) => {
            let reason = refusal.to_string();
            match refusal {
                Refusal::Id(_) => invalid("forward_id", &reason),
                Refusal::Target(_) => invalid("target_ip", &reason),
                Refusal::PortForwarded { .. } | Refusal::PortOfGateway(_) => {
                    answer(StatusCode::CONFLICT, "port_taken", &format!("public_port: {reason}"))
                }
            }
        }
        KeeperError::Missing => answer(StatusCode::NOT_FOUND, "not_found", &error.to_string()),
        KeeperError::File(_) | KeeperError::Network(_) | KeeperError::Ports(_) => failed(error),
    }
}
