//! The conversation on one connection, without I/O: who speaks first, how long each side waits, how it ends.
//!
//! A [`Session`] is told what arrives, what is to be sent and what time it is; it says what to write, what was said to
//! this side, when it must be asked again, and why the connection is over. Nothing is said to this side, or by it, before
//! the agent has registered, and nobody registers twice. A session that is not over has a [deadline](Session::deadline)
//! always, so no side waits for ever; what keeps its caller busy is not the other side's silence.
//!
//! A WebSocket answers pings by itself.

use crate::{
    MESSAGE_BYTES_MAX,
    connection::{Connection, OpenError},
    message::{AgentMessage, HubMessage, Message},
    payload::{ErrorReport, Register, Registered},
    timing::Timing,
};
use std::{fmt, time::Duration};

/// A moment, as the caller's clocks tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since a beginning of the caller's choice, by a clock that is never put back.
    pub elapsed: Duration,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// What to write to the WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text message.
    Text(String),
    /// A ping.
    Ping,
    /// The last frame.
    Close(Close),
}

/// What the WebSocket has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A text message.
    Text(&'a str),
    /// A message of bytes.
    Bytes,
    /// A ping, or the answer to one.
    Sign,
    /// The end, and what the other side says of it.
    Closed(Option<Close>),
}

/// What a side says when it closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The status of the WebSocket.
    pub code: u16,
    /// A sentence, or as much of it as a close has room for.
    pub reason: String,
}

/// RFC 6455 gives the frame 125 bytes, of which the status takes two.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Why a side closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its program ends.
    Away = 1001,
    /// It got bytes where text belongs.
    Unsupported = 1003,
    /// The other side broke the protocol.
    Policy = 1008,
    /// Something is wrong that may go away.
    Again = 1013,
    /// A newer connection of the same node took its place.
    Replaced = 4001,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The other side closed it, or its network did.
    #[error("{peer} closed it{}", Said(close.as_ref()))]
    Closed {
        /// Who.
        peer: &'static str,
        /// What it said.
        close: Option<Close>,
    },
    /// The conversation did not begin as it must, within [`Timing::welcome_timeout`].
    #[error("{0}")]
    Unopened(&'static str),
    /// The other side answered the registration with an error.
    #[error("{0} refuses the registration: {1}")]
    NotWelcome(&'static str, String),
    /// The conversation began a second time.
    #[error("{0} began the conversation twice")]
    Reopened(&'static str),
    /// No frame for [`Timing::silence_max`].
    #[error("{0} is silent")]
    Silent(&'static str),
    /// The network took no bytes for [`Timing::write_timeout`].
    #[error("the network does not take what is sent")]
    Stuck,
    /// A message was not text.
    #[error("{0} sent bytes instead of text")]
    NotText(&'static str),
    /// A message was not the other side's, or not of this connection.
    #[error("a message of {peer} is refused")]
    Refused {
        /// Whose it seemed to be.
        peer: &'static str,
        /// Why.
        source: OpenError,
    },
}

impl End {
    /// What to [close](Session::close) with; none if nobody is left to be told.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Closed { .. } | Self::Silent(_) | Self::Stuck => None,
            Self::NotText(_) => Some(Status::Unsupported),
            _ => Some(Status::Policy),
        }
    }
}

struct Said<'a>(Option<&'a Close>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(close) if !close.reason.is_empty() => write!(f, ": {} ({})", close.reason, close.code),
            _ => Ok(()),
        }
    }
}

/// Why a message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// It would be over [`MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes is too large for the channel")]
    TooLarge(usize),
    /// The conversation has not begun, or is over, or the network has not taken the last frame.
    #[error("nothing can be sent now")]
    NotNow,
}

/// What a session must know of the messages of a direction.
pub trait Speech: Message + From<ErrorReport> {
    /// Who says them.
    const SPEAKER: &str;
    /// What is wrong if this side does not begin.
    const UNOPENED: &str;

    /// Whether the side begins with it.
    fn opens(&self) -> bool;

    /// The sentence of an error.
    fn error(&self) -> Option<&str>;
}

impl Speech for AgentMessage {
    const SPEAKER: &str = "the agent";
    const UNOPENED: &str = "the agent did not register";

    fn opens(&self) -> bool {
        matches!(self, Self::Register(_))
    }

    fn error(&self) -> Option<&str> {
        if let Self::Error(error) = self { Some(&error.message) } else { None }
    }
}

impl Speech for HubMessage {
    const SPEAKER: &str = "the control plane";
    const UNOPENED: &str = "the control plane does not answer to the registration";

    fn opens(&self) -> bool {
        matches!(self, Self::Registered(_))
    }

    fn error(&self) -> Option<&str> {
        if let Self::Error(error) = self { Some(&error.message) } else { None }
    }
}

/// One side of a conversation: says `Out`, is told `In`.
#[derive(Debug)]
pub struct Session<Out, In> {
    connection: Connection<Out, In>,
    timing: Timing,
    phase: Phase,
    /// What this side begins with, until it is handed out.
    opening: Option<Out>,
    /// Whether this side may begin: the agent at once, the hub when the agent has.
    may_begin: bool,
    /// Since when the caller waits for a frame; none while it is busy with a message.
    listening: Option<Duration>,
    /// Since when the network has a frame that it has not taken.
    writing: Option<Duration>,
    /// When the next ping is due.
    ping_at: Duration,
}

/// The agent's side.
pub type AgentSession = Session<AgentMessage, HubMessage>;
/// The hub's side.
pub type HubSession = Session<HubMessage, AgentMessage>;

#[derive(Debug)]
enum Phase {
    /// The other side has not begun, and has had time since then.
    Opening(Duration),
    Open,
    /// What is still to be said: the sentence as a message, until it is handed out, and then the close.
    Closing {
        sentence: Option<String>,
        close: Close,
    },
    Over,
}

impl AgentSession {
    /// An agent's session on a new connection, on which it registers.
    #[must_use]
    pub fn registering(
        connection: Connection<AgentMessage, HubMessage>,
        timing: Timing,
        register: Register,
        now: Moment,
    ) -> Self {
        Self::new(connection, timing, register.into(), true, now)
    }
}

impl HubSession {
    /// A hub's session on a new connection, whose agent is welcomed once it has registered.
    #[must_use]
    pub fn welcoming(
        connection: Connection<HubMessage, AgentMessage>,
        timing: Timing,
        welcome: Registered,
        now: Moment,
    ) -> Self {
        Self::new(connection, timing, welcome.into(), false, now)
    }
}

impl<Out: Speech, In: Speech> Session<Out, In> {
    fn new(
        connection: Connection<Out, In>,
        timing: Timing,
        opening: Out,
        may_begin: bool,
        now: Moment,
    ) -> Self {
        Self {
            connection,
            timing,
            phase: Phase::Opening(now.elapsed),
            opening: Some(opening),
            may_begin,
            listening: None,
            writing: None,
            ping_at: Duration::MAX,
        }
    }

    /// Whether the conversation has begun, on both sides, and is not over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open) && self.opening.is_none()
    }

    /// Whether a message can be [sent](Self::send) now.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.is_open() && self.writing.is_none()
    }

    /// The caller waits for the next frame: from now on, silence counts.
    pub fn listen(&mut self, now: Moment) {
        self.listening.get_or_insert(now.elapsed);
    }

    /// Takes a frame. The message in it, if there is one: the first is the registration, or the answer to it. Then the
    /// caller is busy with it until it [listens](Self::listen) again.
    ///
    /// # Errors
    /// The connection is over, and why.
    pub fn receive(&mut self, frame: Received<'_>, now: Moment) -> Result<Option<In>, End> {
        let taken = self.take(frame, now);
        if taken.is_err() {
            self.give_up();
        }
        taken
    }

    fn take(&mut self, frame: Received<'_>, now: Moment) -> Result<Option<In>, End> {
        let peer = In::SPEAKER;
        let is_ending = matches!(self.phase, Phase::Closing { .. } | Phase::Over);
        let message = match frame {
            Received::Closed(close) => return Err(End::Closed { peer, close }),
            // It is too late to answer.
            _ if is_ending => return Ok(None),
            Received::Text(text) => {
                let opened = self.connection.open(text, now.unix_ms);
                opened.map_err(|source| End::Refused { peer, source })?
            }
            Received::Bytes => return Err(End::NotText(peer)),
            Received::Sign => {
                self.listening = Some(now.elapsed);
                return Ok(None);
            }
        };
        self.listening = None;
        match &self.phase {
            Phase::Opening(_) if message.opens() => {
                self.phase = Phase::Open;
                self.may_begin = true;
                self.ping_at = now.elapsed + self.timing.ping_interval;
                Ok(Some(message))
            }
            Phase::Opening(_) => Err(match message.error() {
                Some(error) => End::NotWelcome(peer, error.to_owned()),
                None => End::Unopened(In::UNOPENED),
            }),
            _ if message.opens() => Err(End::Reopened(peer)),
            _ => Ok(Some(message)),
        }
    }

    /// The frame to write for a message; there is no other until it is [written](Self::written). `id` is random.
    ///
    /// # Errors
    /// Why there is none; the session goes on.
    pub fn send(&mut self, message: &Out, id: [u8; 16], now: Moment) -> Result<Frame, Unsent> {
        if !self.can_send() {
            return Err(Unsent::NotNow);
        }
        let text = self.connection.seal(message, id, now.unix_ms);
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(Unsent::TooLarge(text.len()));
        }
        Ok(self.write(Frame::Text(text), now))
    }

    /// What this side has to write now beside its messages, if there is something: what it begins with, a ping, a
    /// farewell. `id` is random.
    pub fn transmit(&mut self, id: [u8; 16], now: Moment) -> Option<Frame> {
        if self.writing.is_some() {
            return None;
        }
        let frame = match &mut self.phase {
            Phase::Over => return None,
            Phase::Closing { sentence, close } => match sentence.take() {
                Some(message) => {
                    Frame::Text(self.connection.seal(&ErrorReport { message }.into(), id, now.unix_ms))
                }
                None => {
                    let close = close.clone();
                    self.phase = Phase::Over;
                    Frame::Close(close)
                }
            },
            Phase::Opening(_) | Phase::Open => match self.opening.take_if(|_| self.may_begin) {
                Some(opening) => Frame::Text(self.connection.seal(&opening, id, now.unix_ms)),
                None if now.elapsed >= self.ping_at => {
                    self.ping_at = now.elapsed + self.timing.ping_interval;
                    Frame::Ping
                }
                None => return None,
            },
        };
        Some(self.write(frame, now))
    }

    fn write(&mut self, frame: Frame, now: Moment) -> Frame {
        self.writing = Some(now.elapsed);
        frame
    }

    /// The network has taken the last frame.
    pub fn written(&mut self, now: Moment) {
        self.writing = None;
        if let Phase::Opening(since) = &mut self.phase {
            // The answer cannot come before the question.
            *since = now.elapsed;
        }
    }

    /// This side closes the connection and says why; [`transmit`](Self::transmit) has the frames: the whole sentence as a
    /// message, and of it what has room in the close. What the network has not taken is given up.
    pub fn close(&mut self, status: Status, sentence: String) {
        self.writing = None;
        let reason = sentence[..sentence.floor_char_boundary(CLOSE_REASON_BYTES_MAX)].to_owned();
        let close = Close { code: status as u16, reason };
        self.phase = Phase::Closing { sentence: Some(sentence), close };
    }

    /// Looks at the time.
    ///
    /// # Errors
    /// The other side did not do what it must have done by now: the connection is over.
    pub fn tick(&mut self, now: Moment) -> Result<(), End> {
        let has_passed = |by: Option<Duration>| by.is_some_and(|by| by <= now.elapsed);
        let end = if has_passed(self.written_by()) {
            End::Stuck
        } else if !has_passed(self.hear_by()) {
            return Ok(());
        } else if matches!(self.phase, Phase::Opening(_)) {
            End::Unopened(In::UNOPENED)
        } else {
            End::Silent(In::SPEAKER)
        };
        self.give_up();
        Err(end)
    }

    fn give_up(&mut self) {
        self.phase = Phase::Over;
        self.writing = None;
    }

    /// When the other side must have said something, as far as the caller listens.
    #[must_use]
    pub fn hear_by(&self) -> Option<Duration> {
        match self.phase {
            Phase::Opening(since) => Some(since + self.timing.welcome_timeout),
            Phase::Open => self.listening.map(|since| since + self.timing.silence_max),
            Phase::Closing { .. } | Phase::Over => None,
        }
    }

    /// When the network must have taken what is being written, or else when there is something to
    /// [transmit](Self::transmit).
    #[must_use]
    pub fn speak_by(&self) -> Option<Duration> {
        match self.phase {
            _ if self.writing.is_some() => self.written_by(),
            Phase::Over => None,
            Phase::Closing { .. } => Some(Duration::ZERO),
            Phase::Opening(_) | Phase::Open if self.may_begin && self.opening.is_some() => {
                Some(Duration::ZERO)
            }
            Phase::Opening(_) => None,
            Phase::Open => Some(self.ping_at),
        }
    }

    /// When to [look at the time](Self::tick), and then for what is to be [transmitted](Self::transmit), at the latest; none
    /// when the connection is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.hear_by().into_iter().chain(self.speak_by()).min()
    }

    fn written_by(&self) -> Option<Duration> {
        self.writing.map(|since| since + self.timing.write_timeout)
    }
}
