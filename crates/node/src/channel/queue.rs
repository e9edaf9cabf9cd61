//! What waits for a connection, and what finds no room: an agent's messages on their way to the channel.

use super::latest::Latest;
use std::sync::Arc;
use tokio::sync::mpsc;
use wisehosting_protocol::message::{AgentMessage, Message as _, Queueing};

/// Messages that wait for a connection, and events that wait for the agent.
pub(super) const QUEUE_LEN: usize = 256;
/// Room in the queue that logs leave to what matters more.
const BULK_LEAVES: usize = QUEUE_LEN / 2;

/// A message that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) message: AgentMessage,
    /// The connection that it is for; none if any will do.
    connection: Option<u64>,
}

/// Sends to the hub. Clones share one queue.
#[derive(Clone, Debug)]
pub struct ChannelHandle {
    queue: mpsc::Sender<Queued>,
    /// Where [`Queueing::Latest`] messages wait; without it, in the queue.
    latest: Option<Arc<Latest>>,
}

/// The channel was shut down, or (from [`ChannelHandle::try_send`]) it has no room; the message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message was not taken: the channel is full or shut down")]
pub struct NotSent;

impl ChannelHandle {
    /// A queue of which all messages are of equal worth, and its other end.
    pub(super) fn plain() -> (Self, mpsc::Receiver<Queued>) {
        let (queue, queue_out) = mpsc::channel(QUEUE_LEN);
        (Self { queue, latest: None }, queue_out)
    }

    /// Queues a message; waits while the queue is full, which is as long as the hub is away.
    ///
    /// # Errors
    /// The channel was shut down.
    pub async fn send(&self, message: impl Into<AgentMessage>) -> Result<(), NotSent> {
        match self.keep_latest(message.into()) {
            Some(message) => self.queue.send(Queued { message, connection: None }).await.map_err(|_| NotSent),
            None => Ok(()),
        }
    }

    /// Queues a message if there is room: for who may not wait and can repeat it.
    ///
    /// # Errors
    /// There is no room, or the channel was shut down.
    pub fn try_send(&self, message: impl Into<AgentMessage>) -> Result<(), NotSent> {
        self.try_queue(None, message)
    }

    /// As [`try_send`](Self::try_send), but for this connection alone, as [`Event::Connected`](super::Event::Connected) counts them:
    /// when it has ended, the message is dropped. So it arrives behind those that were sent on it before, or not at all.
    ///
    /// # Errors
    /// There is no room, or the channel was shut down.
    pub fn try_send_on(&self, connection: u64, message: impl Into<AgentMessage>) -> Result<(), NotSent> {
        self.try_queue(Some(connection), message)
    }

    fn try_queue(&self, connection: Option<u64>, message: impl Into<AgentMessage>) -> Result<(), NotSent> {
        let Some(message) = self.keep_latest(message.into()) else { return Ok(()) };
        if message.queueing() == Queueing::Bulk && self.queue.capacity() <= BULK_LEAVES {
            return Err(NotSent);
        }
        self.queue.try_send(Queued { message, connection }).map_err(|_| NotSent)
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
    queue: mpsc::Receiver<Queued>,
    latest: Arc<Latest>,
    /// How many connections there were, with the one that is there.
    connections: u64,
}

/// The two ends of what waits.
#[must_use]
pub fn queue() -> (ChannelHandle, Waiting) {
    let (queue, queue_out) = mpsc::channel(QUEUE_LEN);
    let latest = Arc::new(Latest::default());
    (
        ChannelHandle { queue, latest: Some(latest.clone()) },
        Waiting { queue: queue_out, latest, connections: 0 },
    )
}

impl Waiting {
    /// There is a connection: from now on messages of the moment wait for it, too.
    pub fn open(&mut self) {
        self.connections += 1;
        self.latest.open();
    }

    /// It has ended, and what was of its moment with it.
    pub fn close(&mut self) {
        self.latest.close();
    }

    /// The next message, once there is one: those of the moment first, which are few. None once the agent has dropped its
    /// ends. Nothing is lost if nobody waits for it any more.
    pub async fn next(&mut self) -> Option<AgentMessage> {
        loop {
            let Queued { message, connection } = tokio::select! {
                biased;
                message = self.latest.next() => return Some(message),
                queued = self.queue.recv() => queued?,
            };
            if connection.is_none_or(|connection| connection == self.connections) {
                return Some(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wisehosting_domain::id::JobId;
    use wisehosting_protocol::payload::JobRef;

    fn job(number: u128) -> JobRef {
        JobRef { job_id: JobId(uuid::Uuid::from_u128(number)) }
    }

    #[tokio::test]
    async fn what_is_for_one_connection_is_not_sent_on_the_next() {
        let (handle, mut waiting) = queue();
        waiting.open();
        handle.try_send_on(1, job(1)).expect("there is room");
        handle.try_send_on(1, job(2)).expect("there is room");
        assert_eq!(waiting.next().await, Some(job(1).into()));
        waiting.close();
        handle.try_send_on(1, job(3)).expect("its author has not heard of the end");
        handle.try_send(job(4)).expect("there is room");
        waiting.open();
        handle.try_send_on(2, job(5)).expect("there is room");
        assert_eq!(waiting.next().await, Some(job(4).into()), "any connection will do");
        assert_eq!(waiting.next().await, Some(job(5).into()));
    }
}
