//! The life of one connection, from the agent's `register` to its end: what is said is carried out, what the hub has is
//! sent.
//!
//! How the conversation goes is the [`HubSession`]'s to say. Reading and writing do not wait for each other. A message
//! that cannot be stored ends the connection: the agent connects again and repeats what must arrive. While the database is
//! away nothing is read, and nobody is sent away for it.

use std::{error::Error, time::Duration};

use axum::{
    body::Bytes,
    extract::ws::{self, CloseFrame, Message},
};
use futures_util::{
    StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::time::sleep;
use wisehosting_node::channel::drive::{Broken, Driver, WebSocket};
use wisehosting_protocol::{
    connection::HubConnection,
    message::{AgentMessage, HubMessage},
    payload::Register,
    session::{self, Close, Frame, HubSession, Received, Speech as _, Status},
};
use wisehosting_store::StoreError;

use super::{
    Dismissal, Inbox, Node,
    conversation::{Conversation, Unhandled, welcome},
};
use crate::{
    events::{Change, ChangeKind},
    nodes,
    state::AppState,
};

/// How often a message tries again while the database is away.
const STORE_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    /// It is of no more use.
    #[error(transparent)]
    Broken(#[from] Broken<axum::Error>),
    /// The hub wants it.
    #[error("{0}")]
    Dismissed(Dismissal),
    /// The program ends.
    #[error("the control plane is shutting down")]
    Shutdown,
    /// A message that this kind of agent does not send.
    #[error("the agent sent a message of another kind of agent")]
    WrongRole,
    /// What it said could not be stored.
    #[error("what the agent said cannot be stored")]
    Store(#[from] StoreError),
}

impl End {
    /// What the connection is closed with, if the agent is still there to be told.
    fn status(&self) -> Option<Status> {
        match self {
            Self::Broken(Broken::Transport(_)) => None,
            Self::Broken(Broken::Ended(end)) => end.status(),
            Self::Shutdown => Some(Status::Away),
            Self::Dismissed(Dismissal::Replaced) => Some(Status::Replaced),
            Self::Dismissed(_) | Self::Store(_) => Some(Status::Again),
            Self::WrongRole => Some(Status::Policy),
        }
    }

    /// Whether nothing is wrong.
    fn is_usual(&self) -> bool {
        matches!(self, Self::Broken(Broken::Ended(session::End::Closed { .. })) | Self::Shutdown)
    }
}

type Session<'a> = Driver<'a, Axum, HubMessage, AgentMessage>;
type Reader = SplitStream<ws::WebSocket>;
type Writer = SplitSink<ws::WebSocket, Message>;

/// Serves a connection until it ends.
pub(super) async fn run(socket: ws::WebSocket, connection: HubConnection, node: Node, state: AppState) {
    let begin = |now| HubSession::welcoming(connection, state.hub.timing(), welcome(), now);
    let session = Session::new(&*state.clock, begin);
    let (mut sink, stream) = socket.split();
    let served = serve(&session, stream, &mut sink, &node, &state);
    let end = state.shutdown.run_until_cancelled(served).await.unwrap_or(End::Shutdown);
    log_end(&node, &end);
    state.changes.publish(Change::of_all(ChangeKind::Node));
    state.signals.rollout.notify_one();
    state.signals.certificates.notify_one();
    // What was wrong with its messages is for our log only.
    if let Some(status) = end.status() {
        session.close(&mut sink, status, end.to_string()).await;
    }
}

fn log_end(node: &Node, end: &End) {
    let (role, name, error): (_, _, &dyn Error) = (node.role, &node.name, end);
    if end.is_usual() {
        tracing::info!(node.role = %role, node.name = %name, error, "disconnected");
    } else {
        tracing::warn!(node.role = %role, node.name = %name, error, "the connection ended");
    }
}

async fn serve(
    session: &Session<'_>,
    mut stream: Reader,
    sink: &mut Writer,
    node: &Node,
    state: &AppState,
) -> End {
    let register = match session.next(&mut stream).await {
        Ok(AgentMessage::Register(register)) => register,
        Ok(_) => return Broken::from(session::End::Unopened(AgentMessage::UNOPENED)).into(),
        Err(broken) => return broken.into(),
    };
    if let Err(broken) = session.flush(sink).await {
        return broken.into();
    }
    let (conversation, inbox) = Conversation::begin(state, node.clone());
    // Who is removed from now on is told so; who was removed since the upgrade has not been.
    if nodes::address(state, node.role, &node.name).is_none() {
        return End::Dismissed(Dismissal::Removed);
    }
    let version = &register.version;
    tracing::info!(node.role = %node.role, node.name = %node.name, node.version = version, "connected");
    state.changes.publish(Change::of_all(ChangeKind::Node));
    let ended = tokio::select! {
        ended = listen(session, stream, conversation, register, state) => ended,
        ended = speak(session, sink, inbox) => ended,
    };
    match ended {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// Carries out what the agent says.
async fn listen(
    session: &Session<'_>,
    mut stream: Reader,
    mut conversation: Conversation,
    register: Register,
    state: &AppState,
) -> Result<Never, End> {
    // Before that, the node may not be in the database at all. The state, and so the sender, outlives us.
    let _ = state.signals.database_ready.subscribe().wait_for(|ready| *ready).await;
    let mut message = AgentMessage::Register(register);
    loop {
        handle_patiently(&mut conversation, &message).await?;
        message = session.next(&mut stream).await?;
    }
}

/// As [`Conversation::handle`], but waits for a database that is away.
async fn handle_patiently(conversation: &mut Conversation, message: &AgentMessage) -> Result<(), End> {
    loop {
        match conversation.handle(message).await {
            Ok(()) => return Ok(()),
            Err(Unhandled::WrongRole) => return Err(End::WrongRole),
            Err(Unhandled::Store(error)) if error.is_unavailable() => {
                sleep(STORE_RETRY_INTERVAL).await;
            }
            Err(Unhandled::Store(error)) => return Err(error.into()),
        }
    }
}

enum Never {}

/// Sends what the hub has for this node.
async fn speak(session: &Session<'_>, sink: &mut Writer, mut inbox: Inbox) -> Result<Never, End> {
    loop {
        tokio::select! {
            message = inbox.next() => session.send(sink, &message.map_err(End::Dismissed)?).await?,
            () = session.due() => session.flush(sink).await?,
        }
    }
}

/// The hub's WebSocket.
struct Axum;

impl WebSocket for Axum {
    type Message = Message;
    type Error = axum::Error;

    fn received(message: &Message) -> Received<'_> {
        match message {
            Message::Text(text) => Received::Text(text),
            Message::Binary(_) => Received::Bytes,
            Message::Close(frame) => {
                let close = |frame: &CloseFrame| Close { code: frame.code, reason: frame.reason.to_string() };
                Received::Closed(frame.as_ref().map(close))
            }
            Message::Ping(_) | Message::Pong(_) => Received::Sign,
        }
    }

    fn message(frame: Frame) -> Message {
        match frame {
            Frame::Text(text) => Message::Text(text.into()),
            Frame::Ping => Message::Ping(Bytes::new()),
            Frame::Close(Close { code, reason }) => {
                Message::Close(Some(CloseFrame { code, reason: reason.into() }))
            }
        }
    }
}
