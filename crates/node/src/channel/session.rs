//! The life of one connection, from `register` to its end.
//!
//! Reading and writing do not wait for each other: an agent that is slow to take events still sends, and the other way
//! round. The first text that does not open ends the connection.

use super::{
    Event,
    socket::{Link, Stream},
};
use crate::{clock::Clock, random};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use std::{
    convert::Infallible,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};
use wisehosting_protocol::{
    connection::{AgentConnection, OpenError},
    message::{AgentMessage, HubMessage},
    payload::Register,
};

/// For the hub's answer to `register`.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// For the network to take one message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to ask whether the hub is there.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A hub that says nothing for this long, not even to a ping, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The hub closed it.
    #[error("the control plane closed it")]
    Closed,
    /// No frame for [`SILENCE_MAX`].
    #[error("the control plane is silent")]
    Silent,
    /// The network took no bytes for [`WRITE_TIMEOUT`].
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

impl From<tungstenite::Error> for Broken {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => Self::Closed,
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
    pub(super) connected: &'a AtomicBool,
}

/// Serves the connection until it ends.
pub(super) async fn run(link: Link, agent: Agent<'_>, clock: &dyn Clock) -> SessionEnd {
    let signing = Signing { connection: Mutex::new(link.connection), clock };
    let (sink, stream) = link.socket.split();
    let (mut writer, mut reader) = (Writer { sink, signing: &signing }, Reader { stream, signing: &signing });
    let session = async {
        writer.send(&agent.register.into()).await?;
        let welcome =
            time::timeout(WELCOME_TIMEOUT, reader.next()).await.map_err(|_| Broken::NoWelcome)??;
        let registered = match welcome {
            HubMessage::Registered(registered) => registered,
            HubMessage::Error(error) => return Err(Broken::NotWelcome(error.message).into()),
            _ => return Err(Broken::NoWelcome.into()),
        };
        tracing::info!(control_plane.version = registered.version, "connected to the control plane");
        agent.connected.store(true, Ordering::Relaxed);
        agent.events.send(Event::Connected(registered)).await.map_err(|_| SessionEnd::AgentGone)?;
        tokio::select! {
            end = reader.run(agent.events) => end,
            end = writer.run(agent.queue) => end,
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
}

impl Writer<'_> {
    async fn run(&mut self, queue: &mut mpsc::Receiver<AgentMessage>) -> Result<Infallible, SessionEnd> {
        let mut ping = time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = queue.recv() => self.send(&message.ok_or(SessionEnd::AgentGone)?).await?,
                _ = ping.tick() => self.write(Message::Ping(tungstenite::Bytes::new())).await?,
            }
        }
    }

    async fn send(&mut self, message: &AgentMessage) -> Result<(), Broken> {
        let text = self.signing.seal(message);
        self.write(Message::text(text)).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Broken> {
        time::timeout(WRITE_TIMEOUT, self.sink.send(message))
            .await
            .map_err(|_| Broken::Stuck)?
            .map_err(Broken::from)
    }
}

struct Reader<'a> {
    stream: SplitStream<Socket>,
    signing: &'a Signing<'a>,
}

impl Reader<'_> {
    async fn run(&mut self, events: &mpsc::Sender<Event>) -> Result<Infallible, SessionEnd> {
        loop {
            let message = self.next().await?;
            events.send(Event::Message(message)).await.map_err(|_| SessionEnd::AgentGone)?;
        }
    }

    /// The hub's next message; pings are answered by the library on the way.
    async fn next(&mut self) -> Result<HubMessage, Broken> {
        loop {
            let frame = time::timeout(SILENCE_MAX, self.stream.next()).await.map_err(|_| Broken::Silent)?;
            match frame.ok_or(Broken::Closed)?? {
                Message::Text(text) => return Ok(self.signing.open(&text)?),
                Message::Binary(_) => return Err(Broken::NotText),
                Message::Close(_) => return Err(Broken::Closed),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}
