//! The way of messages to the control plane.
//!
//! Invariant: nobody ever waits for the control plane. A message that finds no room is dropped and its author told, so
//! apps are built, served and stopped alike whether somebody listens or not.

use std::{fmt, sync::Arc};
use wisehosting_protocol::message::AgentMessage;

/// Takes messages for the control plane. Clones lead to the same queue.
#[derive(Clone)]
pub struct Outbox(Arc<Offer>);

type Offer = dyn Fn(Option<u64>, AgentMessage) -> bool + Send + Sync;

impl Outbox {
    /// An outbox that hands messages to `offer`, which says whether there was room, for a hub whose connections do not break.
    pub fn new(offer: impl Fn(AgentMessage) -> bool + Send + Sync + 'static) -> Self {
        Self::by_connection(move |_, message| offer(message))
    }

    /// The same with the number of the connection that a message is for, if it is for one alone.
    pub fn by_connection(offer: impl Fn(Option<u64>, AgentMessage) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(offer))
    }

    /// Whether there was room for the message.
    pub fn offer(&self, message: impl Into<AgentMessage>) -> bool {
        (self.0)(None, message.into())
    }

    /// Whether there was room for the message, which this connection alone is to carry.
    pub fn offer_on(&self, connection: u64, message: impl Into<AgentMessage>) -> bool {
        (self.0)(Some(connection), message.into())
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}
