//! The connections of a listener: so many per peer and no more, and none that waits for ever to say what it wants.
//!
//! A connection counts from when it is accepted until its socket is closed, also as a WebSocket. One too many is closed
//! at once, so a peer can use up its own share of the descriptors, never everybody's.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// How long the head of a request may take to arrive, and so how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After an error that is not one connection's, such as no descriptor being free.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Serves, with at most `per_peer` open connections of one address, until `shutdown`, and then until the last request
/// has ended.
pub async fn serve(listener: TcpListener, router: Router, per_peer: usize, shutdown: CancellationToken) {
    let places = Places { per_peer, taken: Arc::default() };
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let open = GracefulShutdown::new();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        let Some(place) = places.take(peer.ip()) else {
            tracing::debug!(%peer, "refused a connection: the peer has too many");
            continue;
        };
        // A message to an agent must not wait for the next one.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(Counted { stream, _place: place });
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
        // How it ended is the peer's affair: what was asked is logged with its answer.
        tokio::spawn(open.watch(connection));
    }
    open.shutdown().await;
}

/// How many connections each peer has.
struct Places {
    per_peer: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Places {
    fn take(&self, peer: IpAddr) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(peer).or_default();
        if *count >= self.per_peer {
            return None;
        }
        *count += 1;
        Some(Place { peer, taken: self.taken.clone() })
    }
}

/// One of a peer's connections; free again when it is dropped.
struct Place {
    peer: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        let Some(count) = taken.get_mut(&self.peer) else { return };
        *count -= 1;
        if *count == 0 {
            taken.remove(&self.peer);
        }
    }
}

fn lock(taken: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that holds its peer's place.
struct Counted {
    stream: TcpStream,
    _place: Place,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Whether the server answers on this connection.
    async fn answers(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(REQUEST).await.is_ok() && matches!(stream.read(&mut byte).await, Ok(1))
    }

    #[tokio::test]
    async fn a_peer_gets_its_share_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let shutdown = CancellationToken::new();
        let router = Router::new().route("/", get(async || "hello"));
        let server = tokio::spawn(serve(listener, router, 2, shutdown.clone()));
        let connect = async || TcpStream::connect(address).await.expect("a connection");
        let (mut first, mut second, mut third) = (connect().await, connect().await, connect().await);
        assert!(answers(&mut first).await);
        assert!(answers(&mut second).await);
        assert!(!answers(&mut third).await, "one too many");
        drop(first);
        // The server sees its end a moment later.
        while !answers(&mut connect().await).await {}
        shutdown.cancel();
        server.await.expect("it ends though a connection is open");
    }
}
