//! Hosts that change their keys, while a connection over them is in use.

use crate::hosts::{ECHO, PATIENCE, Three, echo, wire};
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
    three.hub.stop().await;
    three.hub.change_key();
    three.start_hub().await;
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

/// A connection that is in use all the time.
struct Traffic {
    done: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Traffic {
    fn start(mut connection: TcpStream) -> Self {
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

    async fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}
