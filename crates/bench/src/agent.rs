//! The crowd: each of it the signed channel by the protocol crate alone, so that ten thousand fit into one process.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use nix::sys::resource::{Resource, getrlimit};
use reqwest::header::AUTHORIZATION;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::watch,
    time::{Duration, Instant, interval_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};
use wisehosting_node::{
    clock::{Clock as _, SystemClock},
    descriptors,
};
use wisehosting_protocol::{
    HEADER_START, HEADER_VERSION, VERSION,
    connection::AgentConnection,
    key::SigningKey,
    message::{AgentMessage, HubMessage},
    payload::{AppStats, Capacity, Heartbeat, HostStats, MeshPeers, Register},
};

use crate::platform::crowd_member;

/// First number of the hub's messages; a real agent draws it.
const ACCEPT_START: u64 = 1_000;
/// Nobody looks one up here.
const MESSAGE_ID: [u8; 16] = [7; 16];
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Open files of this program beside the crowd's connections.
const OTHER_FILES: u64 = 500;
/// How many of the crowd connect at the same time.
const CONNECTING: usize = 64;

/// As many of a crowd as this process may have connections.
///
/// # Errors
/// The limit cannot be read.
pub fn at_most(crowd: u16) -> anyhow::Result<u16> {
    descriptors::raise_limit();
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(crowd.min(u16::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(u16::MAX)))
}

/// Connects a crowd.
///
/// # Errors
/// One of it is not admitted.
pub async fn connect(hub: SocketAddr, crowd: u16) -> anyhow::Result<Vec<Agent>> {
    let connecting = stream::iter(0..crowd).map(|number| Agent::connect(hub, number));
    connecting.buffer_unordered(CONNECTING).try_collect().await
}

/// A connected agent.
#[derive(Debug)]
pub struct Agent {
    socket: WebSocketStream<TcpStream>,
    connection: AgentConnection,
    heartbeat_interval: Duration,
    number: u16,
}

impl Agent {
    /// Registers and opens the channel.
    async fn connect(hub: SocketAddr, number: u16) -> anyhow::Result<Self> {
        let (name, address) = crowd_member(number);
        let token = token(&name, open(hub, address.into()).await?).await?;
        let mut request = format!("ws://{hub}/v1/workers/ws").into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        headers.insert(HEADER_VERSION, VERSION.into());
        headers.insert(HEADER_START, ACCEPT_START.into());
        let small = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
        let stream = open(hub, address.into()).await?;
        let (socket, response) = client_async_with_config(request, stream, Some(small)).await?;
        let send_start = response.headers()[HEADER_START].to_str()?.parse()?;
        let connection = AgentConnection::new(SigningKey::derive(&name), send_start, ACCEPT_START);
        let mut agent = Self { socket, connection, heartbeat_interval: Duration::MAX, number };
        agent.register().await.with_context(|| format!("{name} registers"))?;
        Ok(agent)
    }

    async fn register(&mut self) -> anyhow::Result<()> {
        // Too small for any instance.
        let capacity = Some(Capacity { memory_bytes: 1, cpu_millis: 1 });
        self.send(Register { version: "bench".to_owned(), capacity, running_jobs: Vec::new() }).await?;
        while let Some(frame) = self.socket.next().await {
            let Message::Text(text) = frame? else { continue };
            if let HubMessage::Registered(told) = self.connection.open(&text, SystemClock.now_ms())? {
                self.heartbeat_interval = Duration::from_millis(told.heartbeat_interval_ms);
                return Ok(());
            }
        }
        anyhow::bail!("the hub hung up")
    }

    async fn send(&mut self, message: impl Into<AgentMessage>) -> anyhow::Result<()> {
        let text = self.connection.seal(&message.into(), MESSAGE_ID, SystemClock.now_ms());
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// The next set of nodes of the mesh that it is told, when it was here, and the bytes of its message. Answers pings meanwhile.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn next_peers(&mut self) -> anyhow::Result<(MeshPeers, Instant, usize)> {
        while let Some(frame) = self.socket.next().await {
            let Message::Text(text) = frame? else { continue };
            let received_at = Instant::now();
            if let HubMessage::MeshPeers(set) = self.connection.open(&text, SystemClock.now_ms())? {
                return Ok((set, received_at, text.len()));
            }
        }
        anyhow::bail!("the hub hung up")
    }

    /// Answers pings, and sends heartbeats and figures while `working`. Ends with the connection.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn run(mut self, mut working: watch::Receiver<bool>) -> anyhow::Result<()> {
        let spread = self.heartbeat_interval.mul_f64(f64::from(self.number % 1_000) / 1_000.0);
        let mut ticks =
            interval_at(Instant::now() + self.heartbeat_interval + spread, self.heartbeat_interval);
        loop {
            tokio::select! {
                // Reading it answers a ping.
                frame = self.socket.next() => match frame {
                    Some(frame) => drop(frame?),
                    None => return Ok(()),
                },
                _ = ticks.tick(), if *working.borrow_and_update() => self.report().await?,
                changed = working.changed() => changed?,
            }
        }
    }

    async fn report(&mut self) -> anyhow::Result<()> {
        let (memory_bytes_used, cpu_millis_used, instances, running_jobs) = (1, 1, Some(0), Vec::new());
        self.send(Heartbeat { memory_bytes_used, cpu_millis_used, instances, running_jobs }).await?;
        let observed_at_ms = SystemClock.now_ms();
        self.send(AppStats { observed_at_ms, host: HostStats::default(), instances: Vec::new() }).await
    }
}

/// A connection from this address.
async fn open(hub: SocketAddr, from: IpAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(hub).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Registers by hand: a client of the HTTP library for each of the crowd would cost more than the agent.
async fn token(name: &str, mut stream: TcpStream) -> anyhow::Result<String> {
    let body = json!({ "name": name, "api_key": name, "version": "bench" }).to_string();
    let request = format!(
        "POST /v1/workers/register HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{name} is not registered: {answer}");
    let answer: serde_json::Value = serde_json::from_str(body)?;
    Ok(answer["token"].as_str().context("an answer without a token")?.to_owned())
}
