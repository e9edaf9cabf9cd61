//! The life of one connection, from `register` to its end: what is said goes to the agent, what waits to the hub.
//!
//! How the conversation goes is the [`AgentSession`]'s to say. An agent that is slow to take events still sends, and the
//! other way round.

use super::{
    Event, Waiting,
    drive::{self, Driver, WebSocket},
    socket::{Link, Stream},
};
use crate::{clock::Clock, mesh::PeerSets};
use futures_util::{
    StreamExt,
    stream::{SplitSink, SplitStream},
};
use std::{convert::Infallible, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Bytes, Message, protocol::CloseFrame},
};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage},
    payload::Register,
    session::{AgentSession, Close, End, Frame, Received, Speech},
    timing::Timing,
};

/// Why a connection ended.
pub(super) type Broken = drive::Broken<tungstenite::Error>;

/// How a session ends.
pub(super) enum SessionEnd {
    /// The agent dropped its ends of the channel.
    AgentGone,
    /// The connection is of no more use.
    Broken(Broken),
}

/// A connection that was served.
pub(super) struct Served {
    pub(super) end: SessionEnd,
    /// For how long the control plane and the agent were in conversation; zero if it never began.
    pub(super) open_for: Duration,
}

impl<E: Into<Broken>> From<E> for SessionEnd {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// The agent's ends of the channel.
pub(super) struct Agent<'a> {
    pub(super) register: Register,
    pub(super) waiting: &'a mut Waiting,
    pub(super) events: &'a mpsc::Sender<Event>,
    pub(super) sets: &'a PeerSets,
    pub(super) timing: Timing,
}

type Session<'a> = Driver<'a, Tungstenite, AgentMessage, HubMessage>;
type Socket = WebSocketStream<Box<dyn Stream>>;

/// Serves the connection until it ends.
pub(super) async fn run(link: Link, agent: Agent<'_>, clock: &dyn Clock) -> Served {
    let Agent { register, waiting, events, sets, timing } = agent;
    let begin = |now| AgentSession::registering(link.connection, timing, register, now);
    let session = Session::new(clock, begin);
    let (mut sink, mut stream) = link.socket.split();
    let mut opened_at = None;
    let served = async {
        session.flush(&mut sink).await?;
        let HubMessage::Registered(registered) = session.next(&mut stream).await? else {
            return Err(Broken::from(End::Unopened(HubMessage::UNOPENED)).into());
        };
        tracing::info!(control_plane.version = registered.version, "connected to the control plane");
        opened_at = Some(Instant::now());
        waiting.open();
        events.send(Event::Connected(registered)).await.map_err(|_| SessionEnd::AgentGone)?;
        tokio::select! {
            end = listen(&session, stream, events, sets) => end,
            end = speak(&session, sink, waiting) => end,
        }
    };
    let Err(end) = served.await;
    waiting.close();
    Served { end, open_for: opened_at.map_or(Duration::ZERO, |at: Instant| at.elapsed()) }
}

async fn listen(
    session: &Session<'_>,
    mut stream: SplitStream<Socket>,
    events: &mpsc::Sender<Event>,
    sets: &PeerSets,
) -> Result<Infallible, SessionEnd> {
    loop {
        match session.next(&mut stream).await? {
            HubMessage::MeshPeers(set) => sets.put(set),
            message => events.send(Event::Message(message)).await.map_err(|_| SessionEnd::AgentGone)?,
        }
    }
}

async fn speak(
    session: &Session<'_>,
    mut sink: SplitSink<Socket, Message>,
    waiting: &mut Waiting,
) -> Result<Infallible, SessionEnd> {
    loop {
        tokio::select! {
            message = waiting.next() => {
                session.send(&mut sink, &message.ok_or(SessionEnd::AgentGone)?).await?;
            }
            () = session.due() => session.flush(&mut sink).await?,
        }
    }
}

/// The agent's WebSocket.
struct Tungstenite;

impl WebSocket for Tungstenite {
    type Message = Message;
    type Error = tungstenite::Error;

    fn received(message: &Message) -> Received<'_> {
        match message {
            Message::Text(text) => Received::Text(text),
            Message::Binary(_) => Received::Bytes,
            Message::Close(frame) => {
                let close =
                    |frame: &CloseFrame| Close { code: frame.code.into(), reason: frame.reason.to_string() };
                Received::Closed(frame.as_ref().map(close))
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Received::Sign,
        }
    }

    fn message(frame: Frame) -> Message {
        match frame {
            Frame::Text(text) => Message::text(text),
            Frame::Ping => Message::Ping(Bytes::new()),
            Frame::Close(Close { code, reason }) => {
                Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{channel::queue, clock::SystemClock};
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use wisehosting_protocol::{
        connection::{AgentConnection, HubConnection},
        key::SigningKey,
        payload::Registered,
    };

    /// Serves a connection whose other end the hub plays; says how it ended, and for how long it was open.
    async fn end(
        hub: impl AsyncFnOnce(WebSocketStream<Box<dyn Stream>>, HubConnection),
    ) -> (String, Duration) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let socket =
            WebSocketStream::from_raw_socket(Box::new(near) as Box<dyn Stream>, Role::Client, None).await;
        let hub_socket =
            WebSocketStream::from_raw_socket(Box::new(far) as Box<dyn Stream>, Role::Server, None).await;
        let key = SigningKey::derive("key");
        let link = Link { socket, connection: AgentConnection::new(key.clone(), 1, 2) };
        let (_handle, mut waiting) = queue();
        let (events, _events_out) = mpsc::channel(8);
        let agent = Agent {
            register: Register { version: "test".to_owned(), capacity: None, running_jobs: Vec::new() },
            waiting: &mut waiting,
            events: &events,
            sets: &PeerSets::default(),
            timing: Timing {
                welcome_timeout: Duration::from_millis(500),
                ping_interval: Duration::from_millis(20),
                silence_max: Duration::from_millis(500),
                ..Timing::default()
            },
        };
        let served = run(link, agent, &SystemClock);
        let hub = async {
            hub(hub_socket, HubConnection::new(key, 2, 1)).await;
            std::future::pending().await
        };
        let served = tokio::select! {
            served = served => served,
            never = hub => never,
        };
        match served.end {
            SessionEnd::Broken(broken) => (broken.to_string(), served.open_for),
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
        let (why, open_for) = end(silent).await;
        assert_eq!(why, "the control plane is silent");
        assert!(open_for >= Duration::from_millis(500), "{open_for:?}");
    }

    #[tokio::test]
    async fn a_connection_that_never_opens_was_not_open_for_a_moment() {
        let mute = async |_socket: WebSocketStream<_>, _connection| std::future::pending::<()>().await;
        let why = "the control plane does not answer to the registration".to_owned();
        assert_eq!(end(mute).await, (why, Duration::ZERO));
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
            end(closing).await.0,
            "the control plane closed it: a newer connection took its place (4001)"
        );
    }
}
