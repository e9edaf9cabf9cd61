//! An instance of the app: an HTTP server that says which one it is.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// It serves until it is dropped.
pub(crate) struct Instance {
    /// What it answers to every request.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    _server: AbortOnDropHandle<()>,
}

impl Instance {
    pub(crate) async fn start(number: usize) -> anyhow::Result<Self> {
        let name = format!("instance {number}");
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone()));
            }
        });
        Ok(Self { name, address, _server: AbortOnDropHandle::new(server) })
    }
}

/// A request of the edge without a body comes in one piece.
async fn serve(mut stream: TcpStream, answer: String) {
    let mut request = [0; 8 * 1024];
    while matches!(stream.read(&mut request).await, Ok(1..)) {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
