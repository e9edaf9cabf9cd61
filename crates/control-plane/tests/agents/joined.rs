//! Nodes that have joined, on the channel.

use sqlx::PgPool;
use wisehosting_control_plane::nodes::Role;
use wisehosting_node::channel::Event;
use wisehosting_protocol::key::SigningKey;
use wisehosting_store::{
    MIGRATOR, changes,
    joined_nodes::{self, JoinedNode},
    pool,
};

use crate::{
    agent::Agent,
    platform::{Platform, api_key, label},
};

const NAME: &str = "worker-9";

/// Changes who has joined, as an operator's command beside the program does.
async fn change(platform: &Platform, change: impl AsyncFnOnce(&mut wisehosting_store::PgConnection)) {
    let mut db = pool::begin(&platform.state.pool).await.unwrap();
    change(&mut db).await;
    pool::notify(&mut db, changes::NODES).await.unwrap();
    pool::commit(db).await.unwrap();
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_node_that_is_removed_loses_its_connection_and_gets_no_other(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let node = JoinedNode {
        name: label(NAME),
        role: Role::Worker,
        address: "10.50.0.130".parse().unwrap(),
        public_key: [9; 32],
        api_key_sha256: *SigningKey::derive(&api_key(NAME)).as_bytes(),
        approved_public_key: None,
        joined_at: platform.state.clock.now(),
        removed_at: None,
    };
    change(&platform, async |db| joined_nodes::put(db, &node).await.unwrap()).await;
    let is_known = async || {
        let joined = platform.state.hub.joined();
        if joined.is_empty() { Err("nobody has joined".to_owned()) } else { Ok(()) }
    };
    platform.eventually(is_known).await;
    let mut agent = Agent::worker(&platform, NAME).await;
    assert!(platform.state.hub.is_connected(&label(NAME)));
    let mut declared = Agent::worker(&platform, "worker-1").await;

    let now = platform.state.clock.now();
    change(&platform, async |db| joined_nodes::remove(db, &node.name, now).await.unwrap()).await;
    while !matches!(agent.event().await, Event::Disconnected) {}
    platform.is_cut_off(NAME).await;
    declared.heartbeat(&[]).await;
    assert!(platform.state.hub.is_connected(&label("worker-1")));
    platform.stop().await;
}
