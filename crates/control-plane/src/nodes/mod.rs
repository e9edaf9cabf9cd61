//! Workers and edges that may connect, and how they prove it: those that the configuration declares, and those that have
//! [joined](join).
//!
//! A node proves itself with its API key, and only to `register` and `refresh-token`; what it gets is a token for a
//! quarter of an hour, which opens the channel. Only the hash of the key is known here. Invariant: what the configuration declares wins; a joined
//! node that has a name, an address or a key of a declared one is as if it had not joined.

mod declared;
pub mod join;
pub mod token;
pub mod token_endpoints;

use std::{net::IpAddr, time::Duration};

use declared::Declared;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use wisehosting_domain::name::Label;
pub use wisehosting_node::channel::Role;
use wisehosting_node::mesh::PublicKey;
use wisehosting_protocol::key::SigningKey;
use wisehosting_store::{
    DeclaredNode, StoreError, edges, join_tokens,
    joined_nodes::{self, JoinedNode},
    pool, resting_addresses, routes, workers,
};

use crate::{config::Config, state::AppState, tasks::Reconciler};

/// A change that nobody told of is seen after this long.
const INTERVAL: Duration = Duration::from_secs(30);

/// A node that may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known<'a> {
    /// What kind of node.
    pub role: Role,
    /// Its name.
    pub name: &'a Label,
    /// Its address inside the mesh.
    pub address: IpAddr,
    /// Its key in the mesh, if it has joined with it. That of a declared node stands among the peers that are declared.
    pub public_key: Option<PublicKey>,
    /// The key that an operator lets it change to.
    pub next_public_key: Option<PublicKey>,
    /// Proves it at registration, and signs its channel.
    key_hash: [u8; 32],
}

/// The nodes that the configuration declares.
pub fn declared(config: &Config) -> impl Iterator<Item = Known<'_>> {
    let workers = config.workers.iter().map(|w| (Role::Worker, &w.name, w.address, w.api_key_sha256));
    let edges = config.edges.iter().map(|e| (Role::Edge, &e.name, e.address, e.api_key_sha256));
    workers.chain(edges).map(|(role, name, address, hash)| Known {
        role,
        name,
        address,
        public_key: None,
        next_public_key: None,
        key_hash: hash.0,
    })
}

impl<'a> From<&'a JoinedNode> for Known<'a> {
    fn from(node: &'a JoinedNode) -> Self {
        Self {
            role: node.role,
            name: &node.name,
            address: node.address,
            public_key: Some(PublicKey::from_bytes(node.public_key)),
            next_public_key: node.approved_public_key.map(PublicKey::from_bytes),
            key_hash: node.api_key_sha256,
        }
    }
}

/// The nodes of a role that may connect: those that are declared, and [those](crate::hub::Hub::joined) that have joined.
pub fn known<'a>(
    config: &'a Config,
    joined: &'a [JoinedNode],
    role: Role,
) -> impl Iterator<Item = Known<'a>> {
    declared(config).chain(joined.iter().map(Known::from)).filter(move |node| node.role == role)
}

/// Stores what the configuration says of nodes and names, and lets those connect that have joined.
///
/// # Errors
/// The database is away.
pub async fn declare(state: &AppState) -> Result<(), StoreError> {
    // Of two at a time, the later one would not know more.
    let admission = state.hub.admission().await;
    let now = state.clock.now();
    let mut transaction = pool::begin(&state.pool).await?;
    let joined = joined(state, joined_nodes::list(&mut transaction).await?);
    let tokens = join_tokens::list(&mut transaction).await?;
    let nodes = |role| {
        let nodes = known(&state.config, &joined, role);
        nodes.map(|node| DeclaredNode { name: node.name.clone(), address: node.address }).collect::<Vec<_>>()
    };
    workers::declare(&mut transaction, &nodes(Role::Worker), now).await?;
    edges::declare(&mut transaction, &nodes(Role::Edge), now).await?;
    let addresses = Declared::of(state).addresses();
    resting_addresses::declare(&mut transaction, &addresses, now).await?;
    routes::set_domain(&mut transaction, &state.config.apps.domain).await?;
    pool::commit(transaction).await?;
    state.hub.join_tokens().know(&tokens);
    admission.admit(joined);
    Ok(())
}

/// Those of the nodes which have joined that may connect.
fn joined(state: &AppState, mut nodes: Vec<JoinedNode>) -> Vec<JoinedNode> {
    let declared = Declared::of(state);
    nodes.retain(|node| node.removed_at.is_none() && !declared.collides(node));
    nodes
}

/// The address of a node, if it may connect.
#[must_use]
pub fn address(state: &AppState, role: Role, name: &Label) -> Option<IpAddr> {
    let joined = state.hub.joined();
    known(&state.config, &joined, role).find(|node| node.name == name).map(|node| node.address)
}

/// The node of this role that has this API key. Takes the same time for every key.
fn by_api_key(state: &AppState, role: Role, api_key: &str) -> Option<Label> {
    let hash: [u8; 32] = Sha256::digest(api_key.as_bytes()).into();
    let joined = state.hub.joined();
    let mut found = None;
    for node in known(&state.config, &joined, role) {
        if node.key_hash.ct_eq(&hash).into() {
            found = Some(node.name);
        }
    }
    found.cloned()
}

/// The key that signs the channel of a node.
#[must_use]
pub fn signing_key(state: &AppState, role: Role, name: &Label) -> Option<SigningKey> {
    let joined = state.hub.joined();
    let node = known(&state.config, &joined, role).find(|node| node.name == name)?;
    SigningKey::from_hex(&hex::encode(node.key_hash)).ok()
}

/// Lets those connect that have joined, and nobody else, when another process has changed who that is; and knows with which tokens
/// others may join.
pub struct Admissions(pub AppState);

impl Reconciler for Admissions {
    const NAME: &'static str = "nodes";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        let Self(state) = self;
        let mut connection = pool::acquire(&state.pool).await?;
        let now = joined(state, joined_nodes::list(&mut connection).await?);
        let tokens = join_tokens::list(&mut connection).await?;
        drop(connection);
        state.hub.join_tokens().know(&tokens);
        if *state.hub.joined() != now {
            declare(state).await?;
            // What was to run there must run elsewhere.
            state.signals.rollout.notify_one();
            state.signals.jobs.notify_one();
        }
        Ok(INTERVAL)
    }
}
