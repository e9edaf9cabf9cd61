//! Whether an instance answers, seen from its host at the address that the edges use.
//!
//! Invariant: an instance is healthy only after it has answered one HTTP request with a status below 500.

use std::{fmt, io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Between two attempts: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// For one attempt. A first request can be slow: some programs prepare themselves in it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest status line that is looked at.
const STATUS_LINE_BYTES_MAX: usize = 1_024;

/// What an attempt came to, short of a good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unhealthy {
    /// Nothing listens.
    Refused,
    /// Something listens and then says nothing.
    Silent,
    /// What it says is not HTTP.
    NotHttp,
    /// It answers with an error of its own.
    Status(u16),
}

/// The request of a probe.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Where.
    pub address: SocketAddr,
    /// The path that is asked for, from its slash on.
    pub path: String,
}

impl Probe {
    /// Tries until it is answered well; if that takes longer than `limit`, says what the last attempt came to.
    ///
    /// # Errors
    /// The last attempt.
    pub(crate) async fn wait(&self, limit: Duration) -> Result<(), Unhealthy> {
        let deadline = Instant::now() + limit;
        let mut pause = PAUSE_MIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(last) = self.once(left.min(ATTEMPT_TIMEOUT)).await else { return Ok(()) };
            if Instant::now() + pause >= deadline {
                return Err(last);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn once(&self, limit: Duration) -> Result<(), Unhealthy> {
        let deadline = Instant::now() + limit;
        let connect = timeout(limit, TcpStream::connect(self.address)).await;
        let Ok(Ok(stream)) = connect else { return Err(Unhealthy::Refused) };
        let answer = tokio::time::timeout_at(deadline, self.ask(stream)).await;
        let line = match answer {
            Err(_) | Ok(Err(_)) => return Err(Unhealthy::Silent),
            Ok(Ok(line)) => line,
        };
        match status(&line) {
            Some(status) if status < 500 => Ok(()),
            Some(status) => Err(Unhealthy::Status(status)),
            None => Err(Unhealthy::NotHttp),
        }
    }

    /// The first line of the answer.
    async fn ask(&self, mut stream: TcpStream) -> io::Result<Vec<u8>> {
        let Self { address, path } = self;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: wisehosting-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut line = Vec::new();
        let mut buffer = [0; 256];
        while !line.contains(&b'\n') && line.len() < STATUS_LINE_BYTES_MAX {
            match stream.read(&mut buffer).await? {
                0 if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => break,
                count => line.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(line)
    }
}

/// The status of `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line.get(..12)?).ok()?;
    let (version, status) = line.split_once(' ')?;
    version.starts_with("HTTP/1.").then(|| status.trim().parse().ok())?
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("nothing listens there"),
            Self::Silent => f.write_str("it takes connections but does not answer"),
            Self::NotHttp => f.write_str("what it answers is not HTTP"),
            Self::Status(status) => write!(f, "it answers with status {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn server(answers: Vec<&'static [u8]>) -> Probe {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.expect("a request");
                assert!(request[..count].starts_with(b"GET /health HTTP/1.1\r\n"));
                stream.write_all(answer).await.expect("answered");
            }
        });
        Probe { address, path: "/health".to_owned() }
    }

    const SHORT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn any_status_below_500_is_healthy() {
        for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 404 Not Found\r\n\r\n", "HTTP/1.1 301\r\n\r\n"] {
            let probe = server(vec![answer.as_bytes()]).await;
            assert_eq!(probe.wait(SHORT).await, Ok(()), "{answer}");
        }
    }

    #[tokio::test]
    async fn it_is_asked_again_until_it_is_well() {
        let unavailable = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
        let probe = server(vec![b"", unavailable, b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        assert_eq!(probe.wait(Duration::from_secs(10)).await, Ok(()));
    }

    #[tokio::test]
    async fn the_last_attempt_is_what_is_told() {
        let probe = server(vec![b"HTTP/1.1 500 Oops\r\n\r\n"; 9]).await;
        assert_eq!(probe.wait(SHORT).await, Err(Unhealthy::Status(500)));
        let probe = server(vec![b"220 mail.example.org ESMTP\r\n"; 9]).await;
        assert_eq!(probe.wait(SHORT).await, Err(Unhealthy::NotHttp));
        let closed =
            TcpListener::bind("127.0.0.1:0").await.expect("a listener").local_addr().expect("its address");
        let probe = Probe { address: closed, path: "/".to_owned() };
        assert_eq!(probe.wait(SHORT).await, Err(Unhealthy::Refused));
    }

    #[tokio::test]
    async fn a_silent_listener_is_told_from_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let probe = Probe { address: listener.local_addr().expect("its address"), path: "/".to_owned() };
        assert_eq!(probe.wait(SHORT).await, Err(Unhealthy::Silent));
    }
}
