//! Nodes that have joined, on the channel.

use sqlx::PgPool;
use tokio::sync::watch;
use wisehosting_control_plane::{mesh, nodes::Role};
use wisehosting_node::{
    channel::Event,
    mesh::{PeerSight, PublicKey, Sight},
};
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

fn node(platform: &Platform) -> JoinedNode {
    JoinedNode {
        name: label(NAME),
        role: Role::Worker,
        address: "10.50.0.130".parse().unwrap(),
        public_key: [9; 32],
        api_key_sha256: *SigningKey::derive(&api_key(NAME)).as_bytes(),
        approved_public_key: None,
        joined_at: platform.state.clock.now(),
        removed_at: None,
    }
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_node_that_is_removed_loses_its_connection_and_gets_no_other(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let node = node(&platform);
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

/// It goes on with its connection: only its key in the mesh is another one.
#[sqlx::test(migrator = "MIGRATOR")]
async fn a_node_that_speaks_with_its_approved_key_has_no_other(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let node = node(&platform);
    change(&platform, async |db| {
        joined_nodes::put(db, &node).await.unwrap();
        joined_nodes::approve(db, &node.name, &[10; 32]).await.unwrap();
    })
    .await;
    let has = |key: [u8; 32], next: Option<[u8; 32]>| {
        let joined = platform.state.hub.joined();
        let keys = joined.iter().map(|node| (node.public_key, node.approved_public_key)).collect::<Vec<_>>();
        async move { if keys == [(key, next)] { Ok(()) } else { Err(format!("{keys:?}")) } }
    };
    platform.eventually(|| has([9; 32], Some([10; 32]))).await;
    let mut agent = Agent::worker(&platform, NAME).await;
    let seen = |key: u8| {
        let public_key = PublicKey::from_bytes([key; 32]);
        let name = node.name.clone();
        let peers = vec![PeerSight { name, public_key, address: None, direct: true, status: None }];
        Sight { peers, ..Sight::default() }
    };
    let (interface, sight) = watch::channel(seen(9));
    let telling = tokio::spawn(mesh::tell(platform.state.clone(), PublicKey::from_bytes([1; 32]), sight));
    interface.send_replace(seen(10));
    platform.eventually(|| has([10; 32], None)).await;
    agent.heartbeat(&[]).await;
    assert!(platform.state.hub.is_connected(&node.name));
    telling.abort();
    platform.stop().await;
}
