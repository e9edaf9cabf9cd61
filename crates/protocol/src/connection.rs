//! The state of one connection: seals what is sent, opens what is received.
//!
//! Each side draws the number at which the other must start, at random for every connection. An envelope recorded on
//! another connection, in the other direction or before a restart counts from somewhere else and is refused.

use crate::{
    MESSAGE_BYTES_MAX,
    envelope::{self, Envelope, EnvelopeError},
    key::SigningKey,
    message::{AgentMessage, DecodeError, HubMessage, Message},
    window::{ReplayWindow, SequenceError},
};
use std::marker::PhantomData;

/// Sequence numbers start below this, so that they stay exact in any JSON reader.
pub const START_LIMIT: u64 = 1 << 48;

/// Why a received text is refused. The connection should be closed: its peer is broken or not who it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The envelope is wrong.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The sequence number is wrong.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The message is wrong.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// One side of a connection: sends `Out`, receives `In`.
#[derive(Debug)]
pub struct Connection<Out, In> {
    key: SigningKey,
    next: u64,
    window: ReplayWindow,
    direction: PhantomData<fn(Out) -> In>,
}

/// The agent's side.
pub type AgentConnection = Connection<AgentMessage, HubMessage>;
/// The hub's side.
pub type HubConnection = Connection<HubMessage, AgentMessage>;

impl<Out: Message, In: Message> Connection<Out, In> {
    /// A connection that sends from `send_start`, which the other side asked for, and accepts from `accept_start`,
    /// which this side drew at random below [`START_LIMIT`] and told the other.
    #[must_use]
    pub fn new(key: SigningKey, send_start: u64, accept_start: u64) -> Self {
        Self {
            key,
            next: send_start,
            window: ReplayWindow::starting_at(accept_start),
            direction: PhantomData,
        }
    }

    /// The text to send for `message`. `id` is random; `now_ms` is milliseconds since the Unix epoch. A text over
    /// [`MESSAGE_BYTES_MAX`] is not to be sent, and takes no number.
    pub fn seal(&mut self, message: &Out, id: [u8; 16], now_ms: u64) -> String {
        let text = envelope::seal(&self.key, message.kind(), id, self.next, now_ms, message);
        self.next += u64::from(text.len() <= MESSAGE_BYTES_MAX);
        text
    }

    /// The message in a received text.
    ///
    /// # Errors
    /// Why it is refused. Only what the other side has signed, now, takes its number, and takes it also if its message is
    /// refused: no text is looked into twice.
    pub fn open(&mut self, text: &str, now_ms: u64) -> Result<In, OpenError> {
        if let Some(message) = self.open_plain(text, now_ms) {
            return Ok(message);
        }
        let envelope = Envelope::read(text)?;
        envelope.verify(&self.key, now_ms)?;
        self.window.accept(envelope.s)?;
        Ok(In::decode(envelope.t, envelope.p)?)
    }

    /// The message in a text that is as [`seal`](Self::seal) writes it and is not refused, for one look at its payload
    /// instead of two. What it does not take is for [`open`](Self::open) to judge.
    fn open_plain(&mut self, text: &str, now_ms: u64) -> Option<In> {
        let envelope = Envelope::read_plain(text)?;
        envelope.verify(&self.key, now_ms).ok()?;
        let message = In::decode(envelope.t, envelope.p).ok()?;
        self.window.accept(envelope.s).ok()?;
        Some(message)
    }
}
