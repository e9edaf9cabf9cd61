//! What an instance writes, followed and sent to the control plane.
//!
//! Invariants: where an instance's log goes on is the control plane's to say, which keeps the lines and the place after
//! them together: no line is lost or sent twice while the engine has it, whoever is restarted. One batch of lines is on
//! its way for each instance, and the next is read when that one is stored: a control plane that is slow or away costs
//! no memory here.

use crate::{host::Host, lines::time_text};
use std::{
    collections::HashMap,
    error::Error,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use wisehosting_containers::{ContainerId, Engine, EngineError, LogBatch, LogPosition, LogStream};
use wisehosting_domain::id::InstanceId;
use wisehosting_protocol::payload::{LogLine, RuntimeLog, RuntimeLogAck, Stream};

/// Between two batches of one log: an app that writes without end takes only a part of the channel and of the database.
const PACE: Duration = Duration::from_millis(50);
/// Before a batch that found no room is offered again.
const FULL_PAUSE: Duration = Duration::from_millis(200);
/// Answers that wait for their follower: more than one only after a connection broke.
const ANSWERS_MAX: usize = 8;
const LOST: &str =
    "(Lines are missing here: they were written faster than they could be stored, or while no worker ran)";

/// Where the control plane's answers go.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    followers: Mutex<HashMap<InstanceId, mpsc::Sender<Option<String>>>>,
}

impl Answers {
    /// The control plane says how much it has stored.
    pub(crate) fn take(&self, ack: RuntimeLogAck) {
        if let Some(follower) = self.followers().get(&ack.instance_id) {
            // Who has not taken the ones before will ask again.
            let _ = follower.try_send(ack.cursor);
        }
    }

    fn expect(&self, instance: InstanceId) -> mpsc::Receiver<Option<String>> {
        let (answers, received) = mpsc::channel(ANSWERS_MAX);
        let mut followers = self.followers();
        followers.retain(|_, answers| !answers.is_closed());
        followers.insert(instance, answers);
        received
    }

    fn followers(&self) -> MutexGuard<'_, HashMap<InstanceId, mpsc::Sender<Option<String>>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows a container's log until the container has ended; returns whether all of it is stored then.
pub(crate) async fn follow<E: Engine>(
    host: Arc<Host<E>>,
    instance: InstanceId,
    container: ContainerId,
) -> bool {
    let answers = host.logs.answers.expect(instance);
    let connected = host.logs.connection.subscribe();
    let mut way = Way { host: &host, instance, answers, connected, stored: None };
    way.stored = way.deliver(None, Vec::new()).await;
    loop {
        let (batches, received) = mpsc::channel(1);
        let position = position(instance, way.stored.as_deref());
        let mut reading = pin!(host.engine.log(&container, position, true, batches));
        let mut sending = pin!(way.send(received));
        let mut whole = false;
        let goes_on = loop {
            tokio::select! {
                biased;
                read = &mut reading, if !whole => match read {
                    Ok(()) => whole = true,
                    Err(EngineError::NoSuchContainer(_)) => return true,
                    Err(error) => {
                        let error = &error as &dyn Error;
                        tracing::warn!(instance.id = %instance, error, "the log of an instance cannot be read");
                        return false;
                    }
                },
                goes_on = &mut sending => break goes_on,
            }
        };
        if goes_on {
            return whole;
        }
    }
}

fn position(instance: InstanceId, cursor: Option<&str>) -> LogPosition {
    let Some(cursor) = cursor else { return LogPosition::default() };
    cursor.parse().unwrap_or_else(|error| {
        tracing::error!(instance.id = %instance, error = &error as &dyn Error, "what is stored of a log may be stored again");
        LogPosition::default()
    })
}

/// The way of one instance's lines.
struct Way<'a, E> {
    host: &'a Host<E>,
    instance: InstanceId,
    answers: mpsc::Receiver<Option<String>>,
    connected: watch::Receiver<Option<u64>>,
    /// The cursor of what is stored.
    stored: Option<String>,
}

impl<E: Engine> Way<'_, E> {
    /// Sends what is read until there is no more; false if it is to be read once more, from what is stored.
    async fn send(&mut self, mut batches: mpsc::Receiver<LogBatch>) -> bool {
        while let Some(batch) = batches.recv().await {
            let cursor = Some(batch.position.to_string());
            let stored = self.deliver(cursor.clone(), lines(batch)).await;
            let taken = stored == cursor;
            self.stored = stored;
            if !taken {
                return false;
            }
            sleep(PACE).await;
        }
        true
    }

    /// Sends lines, again with each connection, until the control plane says what it has stored.
    async fn deliver(&mut self, cursor: Option<String>, lines: Vec<LogLine>) -> Option<String> {
        let log = RuntimeLog { instance_id: self.instance, after: self.stored.clone(), cursor, lines };
        loop {
            // The sender lives as long as the host.
            let _ = self.connected.wait_for(Option::is_some).await;
            if !self.host.outbox.offer(log.clone()) {
                sleep(FULL_PAUSE).await;
                continue;
            }
            loop {
                tokio::select! {
                    biased;
                    // An answer to what was sent twice, before this: it says what is known.
                    Some(stored) = self.answers.recv() => if log.cursor.is_none() || stored != log.after {
                        return stored;
                    },
                    _ = self.connected.changed() => break,
                }
            }
        }
    }
}

fn lines(batch: LogBatch) -> Vec<LogLine> {
    let lost = batch.lines.first().filter(|_| batch.lost).map(|first| LogLine {
        at: time_text(first.at),
        stream: Stream::System,
        text: LOST.to_owned(),
    });
    let written = batch.lines.into_iter().map(|line| LogLine {
        at: time_text(line.at),
        stream: match line.stream {
            LogStream::Stdout => Stream::Stdout,
            LogStream::Stderr => Stream::Stderr,
        },
        text: line.text,
    });
    lost.into_iter().chain(written).collect()
}
