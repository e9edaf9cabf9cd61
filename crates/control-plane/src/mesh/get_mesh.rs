//! `GET /v1/mesh`: the nodes of the mesh, and the ways between them.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use wisehosting_domain::name::Label;
use wisehosting_node::mesh::PeerSight;
use wisehosting_protocol::payload::{MeshLink, MeshPath};

use super::book::Told;
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    nodes::{self, Known, Role},
    state::AppState,
};

/// The mesh as it is known now.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeshView {
    /// Largest packet inside the tunnels of the control plane, in bytes; none if something else makes its interface.
    mtu: Option<u32>,
    /// Workers, then edges.
    nodes: Vec<MeshNode>,
}

/// A node of the mesh.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeshNode {
    /// Its name.
    #[schema(example = "worker-1")]
    name: String,
    /// `worker` or `edge`.
    #[schema(example = "worker")]
    role: String,
    /// Its address inside the mesh.
    #[schema(example = "10.50.0.11")]
    address: String,
    /// Whether its agent is connected now.
    connected: bool,
    /// The tunnel between the control plane and it, as the control plane sees it; none if the control plane has no such peer.
    tunnel: Option<Tunnel>,
    /// What its agent says; none if it has said nothing since the control plane's start.
    told: Option<NodeTold>,
}

/// A tunnel to a node.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tunnel {
    /// Where the node is.
    endpoint: Option<String>,
    /// Since the last handshake; none if there was none.
    handshake_age_ms: Option<u64>,
    /// What came from it.
    received_bytes: u64,
    /// What went to it.
    sent_bytes: u64,
}

/// What a node says of the mesh.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeTold {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    observed_at: OffsetDateTime,
    /// How long ago that was. It says so every ten seconds.
    age_ms: u64,
    /// Whether it speaks with those that it was named last.
    current: bool,
    /// Largest packet inside its tunnels, in bytes.
    mtu: u32,
    /// The ways to others.
    links: Vec<LinkNow>,
}

/// A node's way to another one.
#[derive(Debug, Serialize, ToSchema)]
pub struct LinkNow {
    /// What it calls the other one.
    #[schema(example = "proxy-1")]
    name: String,
    /// `direct`, or `hub`: by the control plane.
    #[schema(example = "direct")]
    path: &'static str,
    /// Since the last handshake with it, directly; none if there was none.
    handshake_age_ms: Option<u64>,
    /// A packet there and back; none if it did not come back.
    round_trip_us: Option<u64>,
    /// What came from it directly.
    received_bytes: u64,
    /// What went to it directly.
    sent_bytes: u64,
}

/// Show the mesh: each node, and its ways to the others.
#[utoipa::path(
    get, path = "/v1/mesh", tag = "nodes", operation_id = "get_mesh",
    responses(
        (status = 200, description = "All nodes that may connect.", body = MeshView),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn get_mesh(State(state): State<AppState>, _user: SignedIn) -> Result<Json<MeshView>, Problem> {
    let (own, mut told) = state.hub.mesh().read();
    let own: BTreeMap<&Label, &PeerSight> = own.peers.iter().map(|peer| (&peer.name, peer)).collect();
    let joined = state.hub.joined();
    let (now, mut all) = (state.clock.now(), Vec::new());
    for role in [Role::Worker, Role::Edge] {
        let newest = state.hub.named(role);
        for Known { name, address, .. } in nodes::known(&state.config, &joined, role) {
            all.push(MeshNode {
                name: name.to_string(),
                role: role.to_string(),
                address: address.to_string(),
                connected: state.hub.is_connected(name),
                tunnel: own.get(name).map(|peer| Tunnel::of(peer)),
                told: told.remove(name).map(|told| NodeTold::of(told, newest, now)),
            });
        }
    }
    Ok(Json(MeshView { mtu: state.config.mesh.as_ref().map(|mesh| mesh.mtu), nodes: all }))
}

impl Tunnel {
    fn of(peer: &PeerSight) -> Self {
        let status = peer.status.clone().unwrap_or_default();
        let milliseconds = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            endpoint: status.endpoint.map(|endpoint| endpoint.to_string()),
            handshake_age_ms: status.last_handshake_age.map(milliseconds),
            received_bytes: status.rx_bytes,
            sent_bytes: status.tx_bytes,
        }
    }
}

impl NodeTold {
    fn of(told: Told, newest: Option<u64>, now: OffsetDateTime) -> Self {
        Self {
            observed_at: told.at,
            age_ms: (now - told.at).whole_milliseconds().try_into().unwrap_or_default(),
            current: newest.is_none() || told.status.generation == newest,
            mtu: told.status.mtu,
            links: told.status.links.into_iter().map(LinkNow::from).collect(),
        }
    }
}

impl From<MeshLink> for LinkNow {
    fn from(link: MeshLink) -> Self {
        Self {
            name: link.name.into(),
            path: match link.path {
                MeshPath::Direct => "direct",
                MeshPath::Hub => "hub",
            },
            handshake_age_ms: link.handshake_age_ms,
            round_trip_us: link.round_trip_us,
            received_bytes: link.received_bytes,
            sent_bytes: link.sent_bytes,
        }
    }
}
