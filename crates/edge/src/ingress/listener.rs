//! Takes connections from one listening socket and deals them to the threads in turn.

use super::thread::{Accepted, Thread};
use crate::keepalive::keep_asking;
use std::{io, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// How long to wait when the process has no descriptor left for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub(super) fn accept(
    socket: std::net::TcpListener,
    secure: bool,
    threads: Arc<[Thread]>,
) -> io::Result<impl Future<Output = ()>> {
    socket.set_nonblocking(true)?;
    keep_asking(&socket)?;
    let socket = TcpListener::from_std(socket)?;
    Ok(async move {
        for thread in threads.iter().cycle() {
            thread.serve(next(&socket, secure).await);
        }
    })
}

async fn next(socket: &TcpListener, secure: bool) -> Accepted {
    loop {
        let accepted = socket.accept().await.and_then(|(stream, peer)| {
            stream.set_nodelay(true)?;
            // The stream is served on another thread's runtime.
            Ok(Accepted { stream: stream.into_std()?, peer: peer.ip(), secure })
        });
        match accepted {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_visitor(&error) => {
                tracing::debug!(%error, "a visitor left before it was let in");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

fn is_of_one_visitor(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::InvalidInput
    )
}
