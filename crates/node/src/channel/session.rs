//! The life of one connection, from `register` to its end.
//!
//! Reading and writing do not wait for each other: an agent that is slow to take events still sends, and the other way
//! round. The first text that does not open ends the connection.

use super::{
    Event,
    latest::Latest,
    socket::{Link, Stream},
};
use crate::{clock::Clock, mesh::PeerSets, random};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use std::{
    convert::Infallible,
    fmt,
    sync::{Mutex, PoisonError},
};
use tokio::{sync::mpsc, time};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::CloseFrame},
};
use wisehosting_protocol::{
    MESSAGE_BYTES_MAX,
    connection::{AgentConnection, OpenError},
    message::{AgentMessage, HubMessage, Message as _},
    payload::Register,
    timing::Timing,
};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The hub closed it, and why.
    #[error("the control plane closed it{0}")]
    Closed(Reason),
    /// No frame for [`Timing::silence_max`].
    #[error("the control plane is silent")]
    Silent,
    /// The network took no bytes for [`Timing::write_timeout`].
    #[error("the network does not take what is sent")]
    Stuck,
    /// It did not answer `register` by `registered`.
    #[error("the control plane does not answer to the registration")]
    NoWelcome,
    /// It refused the registration.
    #[error("the control plane refuses the registration: {0}")]
    NotWelcome(String),
    /// A message was not text.
    #[error("the control plane sent bytes instead of text")]
    NotText,
    /// A message was not the hub's, or not of this connection.
    #[error("a message of the control plane is refused")]
    Refused(#[from] OpenError),
    /// The network.
    #[error("the connection failed")]
    Transport(#[source] Box<tungstenite::Error>),
}

/// What the hub said when it closed the connection, if it said anything.
#[derive(Debug, Default)]
pub(super) struct Reason(Option<CloseFrame>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(frame) if !frame.reason.is_empty() => write!(f, ": {} ({})", frame.reason, frame.code),
            _ => Ok(()),
        }
    }
}

impl From<tungstenite::Error> for Broken {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
                Self::Closed(Reason::default())
            }
            error => Self::Transport(Box::new(error)),
        }
    }
}

/// How a session ends.
pub(super) enum SessionEnd {
    /// The agent dropped its ends of the channel.
    AgentGone,
    /// The connection is of no more use.
    Broken(Broken),
}

impl<E: Into<Broken>> From<E> for SessionEnd {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// The agent's ends of the channel.
pub(super) struct Agent<'a> {
    pub(super) register: Register,
    pub(super) queue: &'a mut mpsc::Receiver<AgentMessage>,
    pub(super) events: &'a mpsc::Sender<Event>,
    pub(super) sets: &'a PeerSets,
    pub(super) latest: &'a Latest,
    pub(super) timing: Timing,
}

/// Serves the connection until it ends.
pub(super) async fn run(link: Link, agent: Agent<'_>, clock: &dyn Clock) -> SessionEnd {
    let signing = Signing { connection: Mutex::new(link.connection), clock };
    let (sink, stream) = link.socket.split();
    let timing = agent.timing;
    let mut writer = Writer { sink, signing: &signing, timing };
    let mut reader = Reader { stream, signing: &signing, timing };
    let session = async {
        writer.send(&agent.register.into()).await?;
        let welcome = time::timeout(timing.welcome_timeout, reader.next());
        let welcome = welcome.await.map_err(|_| Broken::NoWelcome)??;
        let registered = match welcome {
            HubMessage::Registered(registered) => registered,
            HubMessage::Error(error) => return Err(Broken::NotWelcome(error.message).into()),
            _ => return Err(Broken::NoWelcome.into()),
        };
        tracing::info!(control_plane.version = registered.version, "connected to the control plane");
        agent.latest.open();
        agent.events.send(Event::Connected(registered)).await.map_err(|_| SessionEnd::AgentGone)?;
        tokio::select! {
            end = reader.run(agent.events, agent.sets) => end,
            end = writer.run(agent.queue, agent.latest) => end,
        }
    };
    match session.await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// What reader and writer share.
struct Signing<'a> {
    connection: Mutex<AgentConnection>,
    clock: &'a dyn Clock,
}

impl Signing<'_> {
    fn seal(&self, message: &AgentMessage) -> String {
        self.connection().seal(message, random::bytes(), self.clock.now_ms())
    }

    fn open(&self, text: &str) -> Result<HubMessage, OpenError> {
        self.connection().open(text, self.clock.now_ms())
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, AgentConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Socket = WebSocketStream<Box<dyn Stream>>;

struct Writer<'a> {
    sink: SplitSink<Socket, Message>,
    signing: &'a Signing<'a>,
    timing: Timing,
}

impl Writer<'_> {
    async fn run(
        &mut self,
        queue: &mut mpsc::Receiver<AgentMessage>,
        latest: &Latest,
    ) -> Result<Infallible, SessionEnd> {
        let mut ping = time::interval(self.timing.ping_interval);
        ping.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = queue.recv() => self.send(&message.ok_or(SessionEnd::AgentGone)?).await?,
                message = latest.next() => self.send(&message).await?,
                _ = ping.tick() => self.write(Message::Ping(tungstenite::Bytes::new())).await?,
            }
        }
    }

    async fn send(&mut self, message: &AgentMessage) -> Result<(), Broken> {
        let text = self.signing.seal(message);
        if text.len() > MESSAGE_BYTES_MAX {
            let (kind, bytes) = (message.kind(), text.len());
            tracing::error!(kind, bytes, "a message is too large for the channel: not sent");
            return Ok(());
        }
        self.write(Message::text(text)).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Broken> {
        time::timeout(self.timing.write_timeout, self.sink.send(message))
            .await
            .map_err(|_| Broken::Stuck)?
            .map_err(Broken::from)
    }
}

struct Reader<'a> {
    stream: SplitStream<Socket>,
    signing: &'a Signing<'a>,
    timing: Timing,
}

impl Reader<'_> {
    async fn run(&mut self, events: &mpsc::Sender<Event>, sets: &PeerSets) -> Result<Infallible, SessionEnd> {
        loop {
            let message = match self.next().await? {
                HubMessage::MeshPeers(set) => {
                    sets.put(set);
                    continue;
                }
                message => message,
            };
            events.send(Event::Message(message)).await.map_err(|_| SessionEnd::AgentGone)?;
        }
    }

    /// The hub's next message; pings are answered by the library on the way.
    async fn next(&mut self) -> Result<HubMessage, Broken> {
        loop {
            let frame = time::timeout(self.timing.silence_max, self.stream.next())
                .await
                .map_err(|_| Broken::Silent)?;
            match frame.ok_or(Broken::Closed(Reason::default()))?? {
                Message::Text(text) => return Ok(self.signing.open(&text)?),
                Message::Binary(_) => return Err(Broken::NotText),
                Message::Close(frame) => return Err(Broken::Closed(Reason(frame))),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use wisehosting_protocol::{connection::HubConnection, key::SigningKey, payload::Registered};

    /// Serves a connection whose other end the hub plays; says how it ended.
    async fn end(hub: impl AsyncFnOnce(WebSocketStream<Box<dyn Stream>>, HubConnection)) -> String {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let socket =
            WebSocketStream::from_raw_socket(Box::new(near) as Box<dyn Stream>, Role::Client, None).await;
        let hub_socket =
            WebSocketStream::from_raw_socket(Box::new(far) as Box<dyn Stream>, Role::Server, None).await;
        let key = SigningKey::derive("key");
        let link = Link { socket, connection: AgentConnection::new(key.clone(), 1, 2) };
        let (_queue_in, mut queue) = mpsc::channel(1);
        let (events, _events_out) = mpsc::channel(8);
        let agent = Agent {
            register: Register { version: "test".to_owned(), capacity: None, running_jobs: Vec::new() },
            queue: &mut queue,
            events: &events,
            sets: &PeerSets::default(),
            latest: &Latest::default(),
            timing: Timing {
                ping_interval: std::time::Duration::from_millis(20),
                silence_max: std::time::Duration::from_millis(500),
                ..Timing::default()
            },
        };
        let served = run(link, agent, &SystemClock);
        let hub = async {
            hub(hub_socket, HubConnection::new(key, 2, 1)).await;
            std::future::pending().await
        };
        let end = tokio::select! {
            end = served => end,
            end = hub => end,
        };
        match end {
            SessionEnd::Broken(broken) => broken.to_string(),
            SessionEnd::AgentGone => panic!("the agent is here"),
        }
    }

    async fn welcome(socket: &mut WebSocketStream<Box<dyn Stream>>, connection: &mut HubConnection) {
        let registered = Registered { version: "hub".to_owned(), heartbeat_interval_ms: 15_000 };
        let text = connection.seal(&registered.into(), [7; 16], SystemClock.now_ms());
        socket.send(Message::text(text)).await.expect("the agent reads");
    }

    #[tokio::test]
    async fn a_hub_that_answers_no_ping_is_left() {
        let silent = async |mut socket: WebSocketStream<_>, mut connection| {
            welcome(&mut socket, &mut connection).await;
            // It is there, but nobody looks at it.
            std::future::pending::<()>().await;
        };
        assert_eq!(end(silent).await, "the control plane is silent");
    }

    #[tokio::test]
    async fn a_hub_that_closes_says_why() {
        let frame = CloseFrame { code: 4001.into(), reason: "a newer connection took its place".into() };
        let closing = async |mut socket: WebSocketStream<_>, mut connection| {
            welcome(&mut socket, &mut connection).await;
            socket.close(Some(frame)).await.expect("the agent reads");
            while socket.next().await.is_some() {}
        };
        assert_eq!(
            end(closing).await,
            "the control plane closed it: a newer connection took its place (4001)"
        );
    }
}
