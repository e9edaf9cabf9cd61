//! Hosts that change their keys, while a connection over them is in use.

use crate::hosts::{ECHO, PATIENCE, Three, echo, wire};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::interval;
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
    let mut connection = three.proxy.connect(ECHO, PATIENCE).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let in_use = tokio::spawn({
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

    done.store(true, Ordering::Relaxed);
    in_use.await.unwrap();
    three.end().await;
}
