//! Workers and edges as the configuration declares them: who may connect, and how they prove it.
//!
//! A node proves itself with its API key, and only to `register` and `refresh-token`; what it gets is a token for a
//! quarter of an hour, which opens the channel. Only the hash of the key is known here.

pub mod token;
pub mod token_endpoints;

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use wisehosting_domain::name::Label;
pub use wisehosting_node::channel::Role;
use wisehosting_protocol::key::SigningKey;
use wisehosting_store::{DeclaredNode, StoreError, edges, pool, routes, workers};

use crate::{config::Config, state::AppState};

/// A node that the configuration declares.
struct Declared<'a> {
    name: &'a Label,
    address: IpAddr,
    /// Proves it at registration, and signs its channel.
    key_hash: [u8; 32],
}

fn declared(config: &Config, role: Role) -> impl Iterator<Item = Declared<'_>> {
    let workers = config.workers.iter().map(|w| (Role::Worker, &w.name, w.address, w.api_key_sha256));
    let edges = config.edges.iter().map(|e| (Role::Edge, &e.name, e.address, e.api_key_sha256));
    workers.chain(edges).filter(move |(of, ..)| *of == role).map(|(_, name, address, hash)| Declared {
        name,
        address,
        key_hash: hash.0,
    })
}

/// Stores what the configuration says of nodes and names.
///
/// # Errors
/// The database is away.
pub async fn declare(state: &AppState) -> Result<(), StoreError> {
    let now = state.clock.now();
    let nodes = |role| {
        let nodes = declared(&state.config, role);
        nodes.map(|node| DeclaredNode { name: node.name.clone(), address: node.address }).collect::<Vec<_>>()
    };
    let mut transaction = pool::begin(&state.pool).await?;
    workers::declare(&mut transaction, &nodes(Role::Worker), now).await?;
    edges::declare(&mut transaction, &nodes(Role::Edge), now).await?;
    routes::set_domain(&mut transaction, &state.config.apps.domain).await?;
    pool::commit(transaction).await
}

/// The declared nodes of a role, each with its address inside the mesh.
pub fn addresses(config: &Config, role: Role) -> impl Iterator<Item = (&Label, IpAddr)> {
    declared(config, role).map(|node| (node.name, node.address))
}

/// The node of this role that has this API key. Takes the same time for every key.
fn by_api_key(config: &Config, role: Role, api_key: &str) -> Option<Label> {
    let hash: [u8; 32] = Sha256::digest(api_key.as_bytes()).into();
    let mut found = None;
    for node in declared(config, role) {
        if node.key_hash.ct_eq(&hash).into() {
            found = Some(node.name.clone());
        }
    }
    found
}

/// The key that signs the channel of a declared node.
#[must_use]
pub fn signing_key(config: &Config, role: Role, name: &Label) -> Option<SigningKey> {
    let node = declared(config, role).find(|node| node.name == name)?;
    SigningKey::from_hex(&hex::encode(node.key_hash)).ok()
}
