//! Hosts that change their keys, while a connection over them is in use.

use crate::hosts::{ECHO, PATIENCE, Three, echo, set, wire};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinHandle, time::interval};
use wisehosting_network::{
    Backend,
    testing::{self, pattern},
};
use wisehosting_protocol::payload::MeshPeers;

/// The others know the next key beforehand; the host changes to it by itself, and nobody else at that time.
pub(crate) async fn a_connection_outlives_the_keys_of_the_hub_and_of_a_node(backend: Backend) {
    let mut three = Three::start(backend, |hosts| {
        for host in hosts {
            host.make_next_key();
        }
    })
    .await;
    three.introduce(1);
    let traffic = Traffic::start(three.proxy.connect(ECHO, PATIENCE).await.unwrap());

    // Everything goes by the hub, of which the nodes were told by its first key.
    three.change_key_of_hub().await;
    for host in [&three.worker, &three.proxy] {
        host.sees(&three.hub, |direct| direct == Some(true)).await;
    }
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    wire(&three.worker, &three.proxy, "direct", "203.0.113").await;
    three.go(true).await;
    three.worker.stop().await;
    three.worker.change_key();
    three.start_worker().await;
    // The hub sees who it is, and the control plane tells the others.
    three.hub.sees(&three.worker, |direct| direct == Some(true)).await;
    three.introduce(2);
    three.go(true).await;
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    traffic.end().await;
    three.end().await;
}

/// Nothing declares the worker; the hub alone is told of its next key, and then that it has no other.
pub(crate) async fn a_connection_outlives_the_key_of_a_node_that_has_joined(backend: Backend) {
    let mut three = Three::start_with(backend, true, |[_, worker, _]| worker.make_next_key()).await;
    three.admit_worker(1);
    three.introduce(1);
    // Before that the hub has nowhere to send its packets to.
    three.hub.hears(&three.worker).await;
    let traffic = Traffic::start(three.proxy.connect(ECHO, PATIENCE).await.unwrap());

    three.worker.stop().await;
    three.worker.change_key();
    three.start_worker().await;
    three.hub.sees(&three.worker, |direct| direct == Some(true)).await;
    three.introduce(2);
    three.admit_worker(2);
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    wire(&three.worker, &three.proxy, "direct", "203.0.113").await;
    three.go(true).await;
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
    traffic.end().await;
    three.end().await;
}

/// The configurations of the nodes have the hub's first key, and only its channel tells them of the next.
pub(crate) async fn a_connection_of_nodes_that_have_joined_outlives_the_key_of_the_hub(backend: Backend) {
    let mut three = start_joined(backend).await;
    let traffic = Traffic::start(three.proxy.connect(ECHO, PATIENCE).await.unwrap());

    three.change_key_of_hub().await;
    three.admit_worker(2);
    for host in [&three.worker, &three.proxy] {
        host.sees(&three.hub, |direct| direct == Some(true)).await;
    }
    // It speaks with no other one from now on, and says so.
    three.introduce(2);
    three.worker.goes_by(2).await;
    three.proxy.goes_by(2).await;
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
    traffic.end().await;
    three.end().await;
}

/// One starts again before the change, one is away during it, and both start again after it: nobody tells them anything meanwhile.
pub(crate) async fn nodes_that_have_joined_know_the_keys_of_the_hub_after_a_restart(backend: Backend) {
    let mut three = start_joined(backend).await;
    three.worker.stop().await;
    three.start_worker().await;
    three.proxy.stop().await;
    three.change_key_of_hub().await;
    three.admit_worker(2);
    three.start_proxy().await;
    for host in [&three.worker, &three.proxy] {
        host.sees(&three.hub, |direct| direct == Some(true)).await;
    }
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    three.introduce(2);
    three.worker.goes_by(2).await;
    three.proxy.goes_by(2).await;
    three.worker.stop().await;
    three.proxy.stop().await;
    three.start_worker().await;
    three.start_proxy().await;
    for host in [&three.worker, &three.proxy] {
        host.sees(&three.hub, |direct| direct == Some(true)).await;
    }
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    // A key that is somebody's does not take the hub's place, and the hub is there.
    let stranger = set(3, &three.hub, &[&three.proxy]);
    let stranger = MeshPeers { next_hub: Some(stranger.peers[0].public_key.clone()), ..stranger };
    three.worker.sets.put(stranger);
    three.worker.does_not_say_that_it_knows().await;
    three.worker.sees(&three.proxy, |direct| direct == Some(false)).await;
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
    three.end().await;
}

/// Nodes that joined a hub, which has told them of the key that it changes to.
async fn start_joined(backend: Backend) -> Three {
    let three = Three::start_with(backend, true, |[hub, ..]| {
        hub.is_joined();
        hub.make_next_key();
    })
    .await;
    three.admit_worker(1);
    three.introduce(1);
    three.worker.goes_by(1).await;
    three.proxy.goes_by(1).await;
    // Before that the hub has nowhere to send its packets to.
    three.hub.hears(&three.worker).await;
    three
}

/// A connection that is in use all the time.
pub(crate) struct Traffic {
    done: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Traffic {
    pub(crate) fn start(mut connection: TcpStream) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let done = Arc::clone(&done);
            async move {
                let sent = pattern(16 << 10);
                let mut now_and_then = interval(Duration::from_millis(10));
                while !done.load(Ordering::Relaxed) {
                    now_and_then.tick().await;
                    assert!(testing::echo(&mut connection, &sent).await.unwrap() == sent);
                }
            }
        });
        Self { done, task }
    }

    pub(crate) async fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}
