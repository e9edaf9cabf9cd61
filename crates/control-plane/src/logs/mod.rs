//! What running instances wrote lately: per app a ring of lines in memory.
//!
//! A ring holds [`LINES_MAX`] lines, [`BYTES_MAX`] of text and nothing older than [`AGE_MAX`]. Lines are numbered without gaps over the life of
//! the program, so a reader says what it has and gets what follows.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::{Duration, OffsetDateTime};
use tokio::sync::broadcast;
use wisehosting_domain::id::{AppId, InstanceId};
use wisehosting_protocol::payload::{LogLine, Stream};

/// Lines kept per app.
pub const LINES_MAX: usize = 1_000;
/// Bytes of text kept per app.
pub const BYTES_MAX: usize = 1024 * 1024;
/// How long a line is kept.
pub const AGE_MAX: Duration = Duration::HOUR;
/// Lines that a slow follower may fall behind before it misses some.
const FOLLOW_BUFFER: usize = 256;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, counted over all apps.
    pub number: u64,
    /// Who wrote it.
    pub instance_id: InstanceId,
    /// When it was written, as its worker says: RFC 3339.
    pub at: String,
    /// Where it was written.
    pub stream: Stream,
    /// Without its end.
    pub text: String,
}

/// The rings of all apps; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct RuntimeLogs(Arc<Mutex<Rings>>);

#[derive(Debug, Default)]
struct Rings {
    last_number: u64,
    removals: u64,
    apps: HashMap<AppId, Ring>,
}

#[derive(Debug)]
struct Ring {
    lines: VecDeque<(OffsetDateTime, Line)>,
    /// Of the text of all lines.
    bytes: usize,
    followers: broadcast::Sender<Line>,
}

impl Default for Ring {
    fn default() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, followers: broadcast::Sender::new(FOLLOW_BUFFER) }
    }
}

impl Ring {
    fn append(&mut self, line: Line, now: OffsetDateTime) {
        self.bytes += line.text.len();
        self.lines.push_back((now, line));
    }

    fn forget_old(&mut self, now: OffsetDateTime) {
        while let Some((arrived_at, line)) = self.lines.front() {
            let surplus = self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX;
            if !surplus && now - *arrived_at <= AGE_MAX {
                return;
            }
            self.bytes -= line.text.len();
            self.lines.pop_front();
        }
    }

    fn after(&self, number: u64, limit: usize) -> Vec<Line> {
        let newer = self.lines.iter().map(|(_, line)| line).filter(|line| line.number > number);
        let count = newer.clone().count();
        newer.skip(count.saturating_sub(limit)).cloned().collect()
    }
}

impl RuntimeLogs {
    /// Takes what an instance of an app wrote.
    pub fn push(&self, app: AppId, instance_id: InstanceId, lines: Vec<LogLine>, now: OffsetDateTime) {
        let mut rings = self.lock();
        let mut number = rings.last_number;
        let ring = rings.apps.entry(app).or_default();
        for LogLine { at, stream, text } in lines {
            number += 1;
            let line = Line { number, instance_id, at, stream, text };
            // Nobody follows: fine.
            let _ = ring.followers.send(line.clone());
            ring.append(line, now);
        }
        ring.forget_old(now);
        rings.last_number = number;
    }

    /// The last `limit` lines of an app after line `number` (0 for all), oldest first.
    #[must_use]
    pub fn tail(&self, app: AppId, number: u64, limit: usize, now: OffsetDateTime) -> Vec<Line> {
        let mut rings = self.lock();
        let Some(ring) = rings.apps.get_mut(&app) else { return Vec::new() };
        ring.forget_old(now);
        ring.after(number, limit)
    }

    /// As [`tail`](Self::tail), and every line that comes after those.
    #[must_use]
    pub fn follow(
        &self,
        app: AppId,
        number: u64,
        limit: usize,
        now: OffsetDateTime,
    ) -> (Vec<Line>, broadcast::Receiver<Line>) {
        let mut rings = self.lock();
        let ring = rings.apps.entry(app).or_default();
        ring.forget_old(now);
        (ring.after(number, limit), ring.followers.subscribe())
    }

    /// Forgets an app.
    pub fn remove(&self, app: AppId) {
        let mut rings = self.lock();
        rings.apps.remove(&app);
        rings.removals += 1;
    }

    /// How many apps were forgotten so far: who remembers apps must look them up anew when it has changed.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.lock().removals
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn app(n: u128) -> AppId {
        AppId(Uuid::from_u128(n))
    }

    fn lines(texts: impl IntoIterator<Item = usize>) -> Vec<LogLine> {
        let line =
            |text: usize| LogLine { at: String::new(), stream: Stream::Stdout, text: text.to_string() };
        texts.into_iter().map(line).collect()
    }

    fn push(logs: &RuntimeLogs, app: AppId, texts: impl IntoIterator<Item = usize>, now: OffsetDateTime) {
        logs.push(app, InstanceId(Uuid::from_u128(1)), lines(texts), now);
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_reader_gets_what_it_does_not_have() {
        let logs = RuntimeLogs::default();
        push(&logs, app(1), [1, 2], NOW);
        push(&logs, app(2), [9], NOW);
        push(&logs, app(1), [3], NOW);
        let all = logs.tail(app(1), 0, 10, NOW);
        assert_eq!(texts(&all), ["1", "2", "3"]);
        assert_eq!(texts(&logs.tail(app(1), all[1].number, 10, NOW)), ["3"]);
        assert_eq!(texts(&logs.tail(app(1), 0, 2, NOW)), ["2", "3"]);
        assert!(logs.tail(app(3), 0, 10, NOW).is_empty());
    }

    #[test]
    fn old_and_surplus_lines_are_forgotten() {
        let logs = RuntimeLogs::default();
        push(&logs, app(1), 0..LINES_MAX + 5, NOW);
        let kept = logs.tail(app(1), 0, usize::MAX, NOW);
        assert_eq!((kept.len(), kept[0].text.as_str()), (LINES_MAX, "5"));
        push(&logs, app(1), [7], NOW + Duration::minutes(30));
        assert_eq!(texts(&logs.tail(app(1), 0, 10, NOW + Duration::minutes(70))), ["7"]);
        logs.remove(app(1));
        assert!(logs.tail(app(1), 0, 10, NOW).is_empty());
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let logs = RuntimeLogs::default();
        let text = "x".repeat(BYTES_MAX / 4);
        let line = LogLine { at: String::new(), stream: Stream::Stdout, text };
        logs.push(app(1), InstanceId(Uuid::from_u128(1)), vec![line; 5], NOW);
        assert_eq!(logs.tail(app(1), 0, 10, NOW).len(), 4);
        push(&logs, app(1), [7], NOW);
        assert_eq!(logs.tail(app(1), 0, 10, NOW).len(), 4, "three long ones and the short one");
    }

    #[test]
    fn a_follower_misses_nothing_in_between() {
        let logs = RuntimeLogs::default();
        push(&logs, app(1), [1], NOW);
        let (before, mut after) = logs.follow(app(1), 0, 10, NOW);
        push(&logs, app(1), [2], NOW);
        assert_eq!(texts(&before), ["1"]);
        assert_eq!(after.try_recv().expect("the second line").text, "2");
    }
}
