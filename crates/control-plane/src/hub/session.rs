//! The life of one connection, from the agent's `register` to its end.
//!
//! Reading and writing do not wait for each other. The first text that does not open ends the connection, as does
//! silence, a node that takes nothing, and a message that cannot be stored: the agent connects again and repeats what
//! must arrive. While the database is away nothing is read, and nobody is sent away for it.

use std::{
    error::Error,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, WebSocket, close_code},
};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use wisehosting_node::random;
use wisehosting_protocol::{
    CLOSE_REPLACED, MESSAGE_BYTES_MAX,
    connection::{HubConnection, OpenError},
    message::{AgentMessage, HubMessage, Message as _},
    payload::{ErrorReport, Register},
    timing::Timing,
};
use wisehosting_store::StoreError;

use super::{
    Dismissal, Inbox, Node,
    conversation::{Conversation, Unhandled, welcome},
};
use crate::{
    events::{Change, ChangeKind},
    state::AppState,
};

/// How often a message tries again while the database is away.
const STORE_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The agent closed it.
    #[error("the agent closed it")]
    Closed,
    /// No `register` in time, or another message in its place.
    #[error("the agent did not register")]
    NotRegistered,
    /// No frame for [`Timing::silence_max`].
    #[error("the agent is silent")]
    Silent,
    /// The network took no bytes for [`Timing::write_timeout`].
    #[error("the network does not take what is sent")]
    Stuck,
    /// The hub wants it.
    #[error("{0}")]
    Dismissed(Dismissal),
    /// The program ends.
    #[error("the control plane is shutting down")]
    Shutdown,
    /// A message was not text.
    #[error("the agent sent bytes instead of text")]
    NotText,
    /// A message was not the agent's, or not of this connection.
    #[error("a message of the agent is refused")]
    Refused(#[from] OpenError),
    /// A message that this kind of agent does not send.
    #[error("the agent sent a message of another kind of agent")]
    WrongRole,
    /// What it said could not be stored.
    #[error("what the agent said cannot be stored")]
    Store(#[from] StoreError),
    /// The network.
    #[error("the connection failed")]
    Transport(#[from] axum::Error),
}

impl End {
    /// The status that the WebSocket is closed with.
    fn code(&self) -> u16 {
        match self {
            Self::Shutdown => close_code::AWAY,
            Self::Dismissed(Dismissal::Replaced) => CLOSE_REPLACED,
            Self::Dismissed(_) | Self::Store(_) => close_code::AGAIN,
            Self::NotText => close_code::UNSUPPORTED,
            _ => close_code::POLICY,
        }
    }
}

/// Serves a connection until it ends.
pub(super) async fn run(socket: WebSocket, connection: HubConnection, node: Node, state: AppState) {
    let signing = Signing { connection: Mutex::new(connection), state: &state };
    let (sink, stream) = socket.split();
    let timing = state.hub.timing();
    let mut writer = Writer { sink, signing: &signing, timing };
    let mut reader = Reader { stream, signing: &signing, timing };
    let served = serve(&mut reader, &mut writer, &node, &state);
    let end = state.shutdown.run_until_cancelled(served).await.unwrap_or(End::Shutdown);
    log_end(&node, &end);
    state.changes.publish(Change::of_all(ChangeKind::Node));
    state.signals.rollout.notify_one();
    writer.say_goodbye(&end).await;
}

fn log_end(node: &Node, end: &End) {
    let (role, name, error): (_, _, &dyn Error) = (node.role, &node.name, end);
    match end {
        End::Closed | End::Shutdown => {
            tracing::info!(node.role = %role, node.name = %name, error, "disconnected");
        }
        _ => tracing::warn!(node.role = %role, node.name = %name, error, "the connection ended"),
    }
}

async fn serve(reader: &mut Reader<'_>, writer: &mut Writer<'_>, node: &Node, state: &AppState) -> End {
    let register = match timeout(reader.timing.welcome_timeout, reader.next()).await {
        Ok(Ok(AgentMessage::Register(register))) => register,
        Ok(Err(end)) => return end,
        Ok(Ok(_)) | Err(_) => return End::NotRegistered,
    };
    if let Err(end) = writer.send(&welcome().into()).await {
        return end;
    }
    let (mut conversation, inbox) = Conversation::begin(state, node.clone());
    let version = &register.version;
    tracing::info!(node.role = %node.role, node.name = %node.name, node.version = version, "connected");
    state.changes.publish(Change::of_all(ChangeKind::Node));
    let ended = tokio::select! {
        ended = reader.run(&mut conversation, register, state) => ended,
        ended = writer.run(inbox) => ended,
    };
    match ended {
        Ok(never) => match never {},
        Err(end) => end,
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

/// What reader and writer share.
struct Signing<'a> {
    connection: Mutex<HubConnection>,
    state: &'a AppState,
}

impl Signing<'_> {
    fn seal(&self, message: &HubMessage) -> String {
        self.connection().seal(message, random::bytes(), self.state.clock.now_ms())
    }

    fn open(&self, text: &str) -> Result<AgentMessage, OpenError> {
        self.connection().open(text, self.state.clock.now_ms())
    }

    fn connection(&self) -> MutexGuard<'_, HubConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Never {}

struct Writer<'a> {
    sink: SplitSink<WebSocket, Message>,
    signing: &'a Signing<'a>,
    timing: Timing,
}

impl Writer<'_> {
    /// Sends what the hub has for this node, and pings.
    async fn run(&mut self, mut inbox: Inbox) -> Result<Never, End> {
        let mut ping = interval(self.timing.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = inbox.next() => self.send(&message.map_err(End::Dismissed)?).await?,
                _ = ping.tick() => self.write(Message::Ping(Bytes::new())).await?,
            }
        }
    }

    async fn send(&mut self, message: &HubMessage) -> Result<(), End> {
        let text = self.signing.seal(message);
        if text.len() > MESSAGE_BYTES_MAX {
            let kind = message.kind();
            tracing::error!(kind, bytes = text.len(), "a message is too large for the channel: not sent");
            return Ok(());
        }
        self.write(Message::Text(text.into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        let written = timeout(self.timing.write_timeout, self.sink.send(message)).await;
        written.map_err(|_| End::Stuck)?.map_err(End::from)
    }

    /// Tells the agent why, if it is still there to be told. What was wrong with its messages is for our log only.
    async fn say_goodbye(&mut self, end: &End) {
        if matches!(end, End::Closed | End::Silent | End::Stuck | End::Transport(_)) {
            return;
        }
        let reason = end.to_string();
        let frame = CloseFrame { code: end.code(), reason: reason.as_str().into() };
        if self.send(&ErrorReport { message: reason }.into()).await.is_ok() {
            let _ = self.write(Message::Close(Some(frame))).await;
        }
    }
}

struct Reader<'a> {
    stream: SplitStream<WebSocket>,
    signing: &'a Signing<'a>,
    timing: Timing,
}

impl Reader<'_> {
    async fn run(
        &mut self,
        conversation: &mut Conversation,
        register: Register,
        state: &AppState,
    ) -> Result<Never, End> {
        // Before that, the node may not be in the database at all. The state, and so the sender, outlives us.
        let _ = state.signals.database_ready.subscribe().wait_for(|ready| *ready).await;
        let mut message = AgentMessage::Register(register);
        loop {
            handle_patiently(conversation, &message).await?;
            message = self.next().await?;
        }
    }

    /// The agent's next message; pings are answered by the library on the way.
    async fn next(&mut self) -> Result<AgentMessage, End> {
        loop {
            let frame =
                timeout(self.timing.silence_max, self.stream.next()).await.map_err(|_| End::Silent)?;
            match frame.ok_or(End::Closed)?? {
                Message::Text(text) => return Ok(self.signing.open(&text)?),
                Message::Binary(_) => return Err(End::NotText),
                Message::Close(_) => return Err(End::Closed),
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    }
}
