//! `GET /v1/edges`: the machines that serve visitors.

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use wisehosting_store::edges;

use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    state::AppState,
};

/// Edges, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct EdgeList {
    edges: Vec<Edge>,
}

/// A machine that serves visitors.
#[derive(Debug, Serialize, ToSchema)]
pub struct Edge {
    /// Its name.
    #[schema(example = "proxy-1")]
    name: String,
    /// Whether its agent is connected now.
    connected: bool,
    /// When its agent last said anything.
    #[serde(with = "time::serde::rfc3339::option")]
    observed_at: Option<OffsetDateTime>,
    /// Its address inside the mesh.
    #[schema(example = "10.50.0.30")]
    address: String,
    /// Version of its agent.
    version: Option<String>,
    /// The newest generation of the route table that it serves.
    acked_generation: u64,
    /// Whether that is the newest there is.
    current: bool,
}

/// List the edges, by name.
#[utoipa::path(
    get, path = "/v1/edges", tag = "nodes", operation_id = "list_edges",
    responses(
        (status = 200, description = "All declared edges.", body = EdgeList),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn list_edges(
    State(state): State<AppState>,
    SignedIn { mut db, .. }: SignedIn,
) -> Result<Json<EdgeList>, Problem> {
    let newest = state.hub.published();
    let edges = edges::list(&mut db).await?.into_iter().map(|edge| Edge {
        connected: state.hub.is_connected(&edge.name),
        name: edge.name.into(),
        observed_at: edge.last_seen_at,
        address: edge.address.to_string(),
        version: edge.version,
        acked_generation: edge.acked_generation,
        current: newest.is_none_or(|newest| newest == edge.acked_generation),
    });
    Ok(Json(EdgeList { edges: edges.collect() }))
}
