//! What instances write: stored in Postgres, and per app a ring of the newest lines in memory, for who reads or follows.
//!
//! A ring holds [`LINES_MAX`] lines, [`BYTES_MAX`] of text and nothing older than [`AGE_MAX`]. Invariant: it holds all lines
//! of its app that are newer than the last one that it forgot; whoever needs older ones asks Postgres, where every line of a
//! ring is.

mod follow;
pub mod get_logs;
mod prune;
mod take;

pub use prune::Pruner;
pub(crate) use take::{Turn, take};

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::{Duration, OffsetDateTime};
use tokio::sync::{Notify, watch};
use wisehosting_domain::id::AppId;
use wisehosting_store::runtime_log::Line;

/// Lines kept per app.
pub const LINES_MAX: usize = 1_000;
/// Bytes of text kept per app.
pub const BYTES_MAX: usize = 1024 * 1024;
/// How long a line is kept.
pub const AGE_MAX: Duration = Duration::HOUR;

/// The rings of all apps; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct RuntimeLogs(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rings: Mutex<HashMap<AppId, Ring>>,
    /// Told of new lines.
    news: watch::Sender<()>,
    /// Wakes who removes old lines.
    surplus: Arc<Notify>,
}

#[derive(Debug)]
struct Ring {
    /// With the time at which each came.
    lines: VecDeque<(OffsetDateTime, Line)>,
    /// Of the text of all lines.
    bytes: usize,
    /// All lines with a greater number are here.
    forgotten: u64,
    /// No other was written later than this, unless a worker's clock is ahead; none if that is not known.
    forgotten_until: Option<OffsetDateTime>,
    /// Bytes that were stored since old lines were last removed.
    stored_bytes: u64,
    /// Whoever stores lines of the app holds it, so that they come here in the order of their numbers.
    order: Arc<tokio::sync::Mutex<()>>,
}

impl Ring {
    /// An empty ring of an app whose lines up to this number are in Postgres only.
    fn after(forgotten: u64) -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            forgotten,
            forgotten_until: None,
            stored_bytes: 0,
            order: Arc::default(),
        }
    }

    /// Knows nothing any more.
    fn forget_all(&mut self) {
        (self.bytes, self.forgotten, self.forgotten_until) = (0, UNKNOWN, None);
        self.lines.clear();
    }

    fn append(&mut self, line: Line, now: OffsetDateTime) {
        if self.newest() != UNKNOWN && line.number <= self.newest() {
            // Postgres has lost its last moments, and gives their numbers once more.
            self.forget_all();
        }
        // It knew nothing until now, not even whether there is anything.
        self.forgotten = self.forgotten.min(line.number - 1);
        self.forgotten_until.get_or_insert(now);
        self.bytes += line.text.len();
        self.stored_bytes += line.text.len() as u64;
        self.lines.push_back((now, line));
    }

    fn forget_old(&mut self, now: OffsetDateTime) {
        while let Some((arrived_at, line)) = self.lines.front() {
            let surplus = self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX;
            if !surplus && now - *arrived_at <= AGE_MAX {
                return;
            }
            self.bytes -= line.text.len();
            self.forgotten = line.number;
            self.forgotten_until = self.forgotten_until.max(Some(line.at));
            self.lines.pop_front();
        }
    }

    /// The newest `limit` lines by the time at which they were written, oldest first; none if there may be others among them:
    /// a worker that was away delivers late.
    fn tail(&self, since: Option<OffsetDateTime>, limit: usize) -> Option<Vec<&Line>> {
        let all = self.lines.iter().map(|(_, line)| line);
        let mut lines: Vec<_> = all.filter(|line| since.is_none_or(|since| line.at >= since)).collect();
        lines.sort_by_key(|line| line.order());
        let from =
            if lines.len() < limit { since } else { lines.get(lines.len() - limit).map(|line| line.at) };
        lines.drain(..lines.len().saturating_sub(limit));
        let nothing_between = from.zip(self.forgotten_until).is_some_and(|(from, until)| from >= until);
        (self.forgotten == 0 || limit == 0 || nothing_between).then_some(lines)
    }

    fn newest(&self) -> u64 {
        self.lines.back().map_or(self.forgotten, |(_, line)| line.number)
    }
}

/// A ring that nobody has told what came before.
const UNKNOWN: u64 = u64::MAX;

impl RuntimeLogs {
    /// Takes lines of an app that are stored, in the order of their numbers.
    pub fn push(&self, app: AppId, lines: Vec<Line>, now: OffsetDateTime) {
        let mut rings = self.rings();
        let ring = rings.entry(app).or_insert_with(|| Ring::after(UNKNOWN));
        for line in lines {
            ring.append(line, now);
        }
        ring.forget_old(now);
        drop(rings);
        self.0.news.send_replace(());
    }

    /// The newest `limit` lines of some apps together, oldest first by the time at which they were written; none if the
    /// rings may not have them all.
    #[must_use]
    pub fn tail(
        &self,
        apps: &[AppId],
        since: Option<OffsetDateTime>,
        limit: usize,
        now: OffsetDateTime,
    ) -> Option<Vec<Line>> {
        let mut rings = self.rings();
        let mut lines = Vec::new();
        for app in apps {
            let ring = rings.get_mut(app)?;
            ring.forget_old(now);
            lines.extend(ring.tail(since, limit)?.into_iter().cloned());
        }
        drop(rings);
        lines.sort_by_key(Line::order);
        lines.drain(..lines.len().saturating_sub(limit));
        Some(lines)
    }

    /// The lines of an app with greater numbers than this, in their order; none if its ring may not have them all.
    fn after(&self, app: AppId, last: u64) -> Option<Vec<Line>> {
        let rings = self.rings();
        let ring = rings.get(&app).filter(|ring| last >= ring.forgotten)?;
        let from = ring.lines.partition_point(|(_, line)| line.number <= last);
        Some(ring.lines.range(from..).map(|(_, line)| line.clone()).collect())
    }

    /// The number of the newest line of an app, if its ring knows it.
    fn newest(&self, app: AppId) -> Option<u64> {
        self.rings().get(&app).map(Ring::newest).filter(|newest| *newest != UNKNOWN)
    }

    /// An app has lines up to this number in Postgres. That is news as long as none came here.
    fn begin(&self, app: AppId, newest: u64) {
        let mut rings = self.rings();
        let ring = rings.entry(app).or_insert_with(|| Ring::after(UNKNOWN));
        if ring.forgotten == UNKNOWN {
            ring.forgotten = newest;
        }
    }

    /// Forgets the lines of an app: Postgres may have others.
    fn doubt(&self, app: AppId) {
        if let Some(ring) = self.rings().get_mut(&app) {
            ring.forget_all();
        }
        self.0.news.send_replace(());
    }

    /// Forgets what is old, and the apps of which nothing is left.
    fn forget_old(&self, now: OffsetDateTime) {
        self.rings().retain(|_, ring| {
            ring.forget_old(now);
            !ring.lines.is_empty() || Arc::strong_count(&ring.order) > 1
        });
    }

    /// What is to be held while lines of an app are stored and pushed.
    fn order(&self, app: AppId) -> Arc<tokio::sync::Mutex<()>> {
        self.rings().entry(app).or_insert_with(|| Ring::after(UNKNOWN)).order.clone()
    }

    /// Told of new lines, whosever.
    fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    /// Forgets an app.
    pub fn remove(&self, app: AppId) {
        self.rings().remove(&app);
    }

    /// Whether so much of an app was stored that old lines should be removed; then it counts anew.
    fn call_for_pruning(&self, app: AppId, bytes_max: u64) {
        let mut rings = self.rings();
        if let Some(ring) = rings.get_mut(&app).filter(|ring| ring.stored_bytes > bytes_max / 4) {
            ring.stored_bytes = 0;
            self.0.surplus.notify_one();
        }
    }

    /// Wakes who removes old lines.
    #[must_use]
    pub fn surplus(&self) -> Arc<Notify> {
        self.0.surplus.clone()
    }

    fn rings(&self) -> MutexGuard<'_, HashMap<AppId, Ring>> {
        self.0.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use wisehosting_domain::id::InstanceId;
    use wisehosting_store::runtime_log::Stream;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn app(n: u128) -> AppId {
        AppId(Uuid::from_u128(n))
    }

    fn line(app_id: AppId, number: u64, seconds: i64) -> Line {
        let (instance_id, at) = (InstanceId(Uuid::from_u128(1)), NOW + Duration::seconds(seconds));
        Line { number, app_id, instance_id, at, stream: Stream::Stdout, text: number.to_string() }
    }

    fn push(logs: &RuntimeLogs, app: AppId, numbers: impl IntoIterator<Item = u64>, now: OffsetDateTime) {
        logs.push(app, numbers.into_iter().map(|number| line(app, number, 0)).collect(), now);
    }

    fn numbers(lines: Option<Vec<Line>>) -> Option<Vec<u64>> {
        lines.map(|lines| lines.into_iter().map(|line| line.number).collect())
    }

    #[test]
    fn a_reader_gets_what_it_does_not_have() {
        let logs = RuntimeLogs::default();
        let _order = logs.order(app(1));
        assert_eq!(logs.newest(app(1)), None, "nobody has looked");
        logs.begin(app(1), 4);
        push(&logs, app(1), [10, 11], NOW);
        push(&logs, app(1), [20], NOW);
        assert_eq!(numbers(logs.after(app(1), 4)), Some(vec![10, 11, 20]));
        assert_eq!(numbers(logs.after(app(1), 10)), Some(vec![11, 20]));
        assert_eq!(numbers(logs.after(app(1), 20)), Some(vec![]));
        assert_eq!(numbers(logs.after(app(1), 3)), None, "Postgres may have more");
        assert_eq!(numbers(logs.after(app(2), 0)), None, "nothing is known of it");
        assert_eq!((logs.newest(app(1)), logs.newest(app(2))), (Some(20), None));
    }

    #[test]
    fn the_last_lines_are_here_or_nowhere_else_is_said() {
        let logs = RuntimeLogs::default();
        push(&logs, app(1), [10, 11, 12], NOW);
        assert_eq!(numbers(logs.tail(&[app(1)], None, 2, NOW)), Some(vec![11, 12]));
        assert_eq!(logs.tail(&[app(1)], None, 4, NOW), None);
        logs.begin(app(2), 0);
        push(&logs, app(2), [5], NOW);
        assert_eq!(numbers(logs.tail(&[app(2)], None, 4, NOW)), Some(vec![5]), "there never was more");
        assert_eq!(logs.tail(&[app(2), app(3)], None, 1, NOW), None);
        logs.begin(app(3), 4);
        assert_eq!(logs.tail(&[app(3)], Some(NOW), 1, NOW), None, "Postgres has four");
    }

    #[test]
    fn lines_of_several_apps_are_in_the_order_of_their_times() {
        let logs = RuntimeLogs::default();
        for (id, number, seconds) in [(1, 1, 10), (2, 2, 5), (1, 3, 30), (2, 4, 20)] {
            logs.begin(app(id), 0);
            logs.push(app(id), vec![line(app(id), number, seconds)], NOW);
        }
        let both = [app(1), app(2)];
        assert_eq!(numbers(logs.tail(&both, None, 10, NOW)), Some(vec![2, 1, 4, 3]));
        assert_eq!(numbers(logs.tail(&both, None, 1, NOW)), Some(vec![3]));
        let since = Some(NOW + Duration::seconds(20));
        assert_eq!(numbers(logs.tail(&both, since, 10, NOW)), Some(vec![4, 3]));
    }

    #[test]
    fn lines_that_come_late_do_not_hide_newer_ones() {
        let logs = RuntimeLogs::default();
        logs.begin(app(1), 0);
        let at = |number, seconds| line(app(1), number, seconds);
        logs.push(app(1), vec![at(1, 100), at(2, 110)], NOW);
        // A worker that was away; they push the newer ones out.
        logs.push(app(1), (3..LINES_MAX as u64 + 2).map(|number| at(number, 10)).collect(), NOW);
        assert_eq!(numbers(logs.tail(&[app(1)], None, 1, NOW)), Some(vec![2]));
        assert_eq!(
            numbers(logs.tail(&[app(1)], None, 2, NOW)),
            None,
            "the second newest is in Postgres only"
        );
        let since = |seconds| Some(NOW + Duration::seconds(seconds));
        assert_eq!(
            numbers(logs.tail(&[app(1)], since(105), 9, NOW)),
            Some(vec![2]),
            "nothing else is as new"
        );
        assert_eq!(numbers(logs.tail(&[app(1)], since(95), 9, NOW)), None);
    }

    #[test]
    fn old_and_surplus_lines_are_forgotten() {
        let logs = RuntimeLogs::default();
        push(&logs, app(1), 1..=LINES_MAX as u64 + 5, NOW);
        let kept = logs.after(app(1), 5).expect("what follows on what was forgotten");
        assert_eq!((kept.len(), kept[0].number), (LINES_MAX, 6));
        assert_eq!(logs.after(app(1), 4), None);
        push(&logs, app(1), [2_000], NOW + Duration::minutes(30));
        assert_eq!(numbers(logs.tail(&[app(1)], None, 1, NOW + Duration::minutes(70))), Some(vec![2_000]));
        assert_eq!(logs.tail(&[app(1)], None, 2, NOW + Duration::minutes(70)), None);
        logs.remove(app(1));
        assert_eq!(logs.newest(app(1)), None);
    }

    #[test]
    fn an_app_that_fell_silent_is_forgotten_unless_lines_are_on_their_way() {
        let logs = RuntimeLogs::default();
        push(&logs, app(1), [1], NOW);
        let order = logs.order(app(2));
        logs.forget_old(NOW + AGE_MAX);
        assert_eq!((logs.newest(app(1)), logs.rings().len()), (Some(1), 2));
        logs.forget_old(NOW + AGE_MAX + Duration::SECOND);
        assert_eq!(logs.rings().keys().collect::<Vec<_>>(), [&app(2)]);
        drop(order);
        logs.forget_old(NOW);
        assert!(logs.rings().is_empty());
    }

    #[test]
    fn numbers_that_come_again_are_other_lines() {
        let logs = RuntimeLogs::default();
        push(&logs, app(1), [10, 20, 30], NOW);
        push(&logs, app(1), [20], NOW);
        assert_eq!(numbers(logs.after(app(1), 19)), Some(vec![20]));
        assert_eq!(logs.after(app(1), 10), None, "Postgres knows what is left of those before");
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let logs = RuntimeLogs::default();
        let long = |number| Line { text: "x".repeat(BYTES_MAX / 4), ..line(app(1), number, 0) };
        logs.push(app(1), (1..=5).map(long).collect(), NOW);
        assert_eq!(numbers(logs.after(app(1), 1)), Some(vec![2, 3, 4, 5]));
        push(&logs, app(1), [7], NOW);
        assert_eq!(numbers(logs.after(app(1), 2)), Some(vec![3, 4, 5, 7]));
    }
}
