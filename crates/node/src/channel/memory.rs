//! A channel without a network, for tests of what agents say: the test holds the hub's ends.

use super::{
    ChannelHandle, Event,
    queue::{QUEUE_LEN, Queued},
};
use tokio::sync::mpsc;
use wisehosting_protocol::message::AgentMessage;

/// The hub's ends.
#[derive(Debug)]
pub struct FarEnd {
    /// What the agent sends, in order.
    pub sent: Sent,
    /// What happens to the agent, in order; it begins without a connection.
    pub events: mpsc::Sender<Event>,
}

/// What an agent sends. Its channel has one connection, which never ends.
#[derive(Debug)]
pub struct Sent(mpsc::Receiver<Queued>);

impl Sent {
    /// The next message, once there is one; none when the agent has dropped its ends.
    pub async fn recv(&mut self) -> Option<AgentMessage> {
        self.0.recv().await.map(|queued| queued.message)
    }
}

/// A channel whose other side is in this process. It hears every message, also those of which a newer one is enough.
#[must_use]
pub fn channel() -> (ChannelHandle, mpsc::Receiver<Event>, FarEnd) {
    let (handle, sent) = ChannelHandle::plain();
    let (events, events_out) = mpsc::channel(QUEUE_LEN);
    (handle, events_out, FarEnd { sent: Sent(sent), events })
}
