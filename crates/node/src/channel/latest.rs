//! Messages of which only the newest of each type is worth sending, and only on the connection that it was meant for.

use std::{
    mem::discriminant,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use wisehosting_protocol::message::AgentMessage;

/// At most one waiting message of each type, in the order in which their types came to wait.
#[derive(Debug, Default)]
pub(super) struct Latest {
    slots: Mutex<Slots>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    open: bool,
    waiting: Vec<AgentMessage>,
}

impl Latest {
    /// A connection is there: from now on messages wait for it.
    pub(super) fn open(&self) {
        *self.slots() = Slots { open: true, waiting: Vec::new() };
    }

    /// It has ended, and what waited for it with it.
    pub(super) fn close(&self) {
        *self.slots() = Slots::default();
    }

    /// Takes the place of a message of the same type that still waits. Without a connection it is dropped.
    pub(super) fn put(&self, message: AgentMessage) {
        let mut slots = self.slots();
        if !slots.open {
            return;
        }
        let kind = discriminant(&message);
        match slots.waiting.iter_mut().find(|waiting| discriminant(*waiting) == kind) {
            Some(older) => *older = message,
            None => slots.waiting.push(message),
        }
        self.filled.notify_one();
    }

    /// The message that has waited longest, once there is one.
    pub(super) async fn next(&self) -> AgentMessage {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<AgentMessage> {
        let waiting = &mut self.slots().waiting;
        (!waiting.is_empty()).then(|| waiting.remove(0))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wisehosting_protocol::payload::{RoutesAck, RoutesDrained};

    fn ack(generation: u64) -> AgentMessage {
        RoutesAck { generation, problems: Vec::new() }.into()
    }

    #[tokio::test]
    async fn the_newest_of_each_type_waits_for_its_connection_only() {
        let latest = Latest::default();
        latest.put(ack(1));
        latest.open();
        latest.put(ack(2));
        latest.put(RoutesDrained { generation: 1 }.into());
        latest.put(ack(3));
        assert_eq!(
            latest.next().await,
            ack(3),
            "neither what came before the connection nor what is out of date"
        );
        assert_eq!(latest.next().await, RoutesDrained { generation: 1 }.into());
        latest.put(ack(4));
        latest.close();
        latest.open();
        assert_eq!(latest.take(), None);
    }
}
