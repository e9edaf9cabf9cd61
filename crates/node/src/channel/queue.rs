//! What waits for a connection, and what finds no room: an agent's messages on their way to the channel.

use super::latest::Latest;
use std::sync::Arc;
use tokio::sync::mpsc;
use wisehosting_protocol::message::{AgentMessage, Message as _, Queueing};

/// Messages that wait for a connection, and events that wait for the agent.
pub(super) const QUEUE_LEN: usize = 256;
/// Room in the queue that logs leave to what matters more.
const BULK_LEAVES: usize = QUEUE_LEN / 2;

/// Sends to the hub. Clones share one queue.
#[derive(Clone, Debug)]
pub struct ChannelHandle {
    queue: mpsc::Sender<AgentMessage>,
    /// Where [`Queueing::Latest`] messages wait; without it, in the queue.
    latest: Option<Arc<Latest>>,
}

/// The channel was shut down, or (from [`ChannelHandle::try_send`]) it has no room; the message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message was not taken: the channel is full or shut down")]
pub struct NotSent;

impl ChannelHandle {
    /// A queue of which all messages are of equal worth, and its other end.
    pub(super) fn plain() -> (Self, mpsc::Receiver<AgentMessage>) {
        let (queue, queue_out) = mpsc::channel(QUEUE_LEN);
        (Self { queue, latest: None }, queue_out)
    }

    /// Queues a message; waits while the queue is full, which is as long as the hub is away.
    ///
    /// # Errors
    /// The channel was shut down.
    pub async fn send(&self, message: impl Into<AgentMessage>) -> Result<(), NotSent> {
        match self.keep_latest(message.into()) {
            Some(message) => self.queue.send(message).await.map_err(|_| NotSent),
            None => Ok(()),
        }
    }

    /// Queues a message if there is room: for who may not wait and can repeat it.
    ///
    /// # Errors
    /// There is no room, or the channel was shut down.
    pub fn try_send(&self, message: impl Into<AgentMessage>) -> Result<(), NotSent> {
        let Some(message) = self.keep_latest(message.into()) else { return Ok(()) };
        if message.queueing() == Queueing::Bulk && self.queue.capacity() <= BULK_LEAVES {
            return Err(NotSent);
        }
        self.queue.try_send(message).map_err(|_| NotSent)
    }

    /// The message, unless it is one of those of which only the newest waits.
    fn keep_latest(&self, message: AgentMessage) -> Option<AgentMessage> {
        match &self.latest {
            Some(latest) if message.queueing() == Queueing::Latest => {
                latest.put(message);
                None
            }
            _ => Some(message),
        }
    }
}

/// The messages that wait, for whoever has the connection.
#[derive(Debug)]
pub struct Waiting {
    queue: mpsc::Receiver<AgentMessage>,
    latest: Arc<Latest>,
}

/// The two ends of what waits.
#[must_use]
pub fn queue() -> (ChannelHandle, Waiting) {
    let (queue, queue_out) = mpsc::channel(QUEUE_LEN);
    let latest = Arc::new(Latest::default());
    (ChannelHandle { queue, latest: Some(latest.clone()) }, Waiting { queue: queue_out, latest })
}

impl Waiting {
    /// There is a connection: from now on messages of the moment wait for it, too.
    pub fn open(&mut self) {
        self.latest.open();
    }

    /// It has ended, and what was of its moment with it.
    pub fn close(&mut self) {
        self.latest.close();
    }

    /// The next message, once there is one: those of the moment first, which are few. None once the agent has dropped its
    /// ends. Nothing is lost if nobody waits for it any more.
    pub async fn next(&mut self) -> Option<AgentMessage> {
        tokio::select! {
            biased;
            message = self.latest.next() => Some(message),
            message = self.queue.recv() => message,
        }
    }
}
