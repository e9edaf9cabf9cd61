//! What an instance writes, followed and sent to the control plane.
//!
//! Invariant: when a log is followed again from a [`Cursor`], no line that was read before is sent again and none is
//! left out, although the engine knows the moment of a line to the second only.

use crate::{
    host::Host,
    lines::{self, Waiting},
};
use std::{error::Error, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use wisehosting_containers::{ContainerId, Engine, LogLine, LogQuery, LogStream};
use wisehosting_domain::id::InstanceId;
use wisehosting_protocol::payload::{RuntimeLog, Stream};

/// How long lines are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(200);
/// Lines that the engine may be ahead of the gathering.
const CHANNEL_LINES: usize = 512;

/// How far a log has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// Nothing was read: all of it is new.
    Start,
    /// What is there is not wanted: an earlier run of this program has sent it.
    End,
    /// Lines up to this moment were read, and so many of this very moment.
    At(OffsetDateTime, usize),
}

impl Cursor {
    fn query(self) -> LogQuery {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        match self {
            Self::Start => query,
            Self::End => LogQuery { tail: Some(0), ..query },
            Self::At(since, _) => LogQuery { since: Some(since), ..query },
        }
    }
}

/// Tells the lines that were read before from new ones.
struct Reader {
    cursor: Cursor,
    /// Lines of the cursor's moment that come again.
    again: usize,
}

impl Reader {
    fn new(cursor: Cursor) -> Self {
        let again = if let Cursor::At(_, seen) = cursor { seen } else { 0 };
        Self { cursor, again }
    }

    fn is_new(&mut self, at: OffsetDateTime) -> bool {
        match self.cursor {
            Cursor::At(last, _) if at == last && self.again > 0 => {
                self.again -= 1;
                return false;
            }
            Cursor::At(last, seen) if at == last => self.cursor = Cursor::At(last, seen + 1),
            _ => {
                self.again = 0;
                self.cursor = Cursor::At(at, 1);
            }
        }
        true
    }
}

/// Follows a container's log until the container ends or the engine goes away, and says how far it came.
pub(crate) async fn follow<E: Engine>(
    host: Arc<Host<E>>,
    instance: InstanceId,
    container: ContainerId,
    cursor: Cursor,
) -> Cursor {
    let (lines, received) = mpsc::channel(CHANNEL_LINES);
    let followed = host.engine.logs(&container, cursor.query(), lines);
    let (followed, cursor) = tokio::join!(followed, gather(&host, instance, received, Reader::new(cursor)));
    if let Err(error) = followed {
        tracing::debug!(instance.id = %instance, error = &error as &dyn Error, "the log of an instance ended early");
    }
    cursor
}

async fn gather<E: Engine>(
    host: &Host<E>,
    instance_id: InstanceId,
    mut received: mpsc::Receiver<LogLine>,
    mut reader: Reader,
) -> Cursor {
    let mut waiting = Waiting::default();
    let mut ticks = interval(GATHER);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let offer = |_, lines| host.outbox.offer(RuntimeLog { instance_id, lines });
    loop {
        tokio::select! {
            line = received.recv() => match line {
                Some(line) if reader.is_new(line.at) => {
                    waiting.push(lines::line(line.at, stream(line.stream), &line.text));
                }
                Some(_) => {}
                None => break,
            },
            _ = ticks.tick(), if !waiting.is_empty() => waiting.send(offer),
        }
    }
    waiting.send(offer);
    reader.cursor
}

fn stream(stream: LogStream) -> Stream {
    match stream {
        LogStream::Stdout => Stream::Stdout,
        LogStream::Stderr => Stream::Stderr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_ones(cursor: Cursor, seconds: &[i64]) -> (Vec<bool>, Cursor) {
        let mut reader = Reader::new(cursor);
        let at = |second: &i64| OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second.unsigned_abs());
        (seconds.iter().map(|second| reader.is_new(at(second))).collect(), reader.cursor)
    }

    #[test]
    fn lines_of_one_second_are_counted() {
        let (new, cursor) = new_ones(Cursor::Start, &[1, 1, 2, 2]);
        assert_eq!(new, [true; 4]);
        // Followed again since second 2: the two that were read come again, and a third one.
        let (new, cursor) = new_ones(cursor, &[2, 2, 2, 3]);
        assert_eq!(new, [false, false, true, true]);
        assert_eq!(new_ones(cursor, &[3, 4]).0, [false, true]);
    }
}
