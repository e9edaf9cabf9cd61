//! What workers and instances use, as workers last said: in memory only.
//!
//! A worker's newest word replaces the one before, so nothing is kept of an instance that it does not name any more. Invariant:
//! what is older than [`AGE_MAX`] is not shown as if it were so now.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::{Duration, OffsetDateTime};
use wisehosting_domain::{
    id::InstanceId,
    name::Label,
    placement::{Outline, Share},
    usage::{self, Rates, Usage},
};
use wisehosting_protocol::payload::{AppStats, Heartbeat, HostStats};

/// How long a figure counts as the present one: workers speak every ten seconds.
pub const AGE_MAX: Duration = Duration::seconds(45);
/// Points kept of each instance: ten minutes.
pub const HISTORY_LEN: usize = 60;

/// What all workers said; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Mutex<HashMap<Label, WorkerStats>>>);

#[derive(Debug, Default)]
struct WorkerStats {
    /// What it has for instances, as of its last registration.
    capacity: Option<Share>,
    load: Option<(OffsetDateTime, Share)>,
    told: Option<(OffsetDateTime, HostStats)>,
    observed_at_ms: u64,
    instances: HashMap<InstanceId, Track>,
}

#[derive(Debug)]
struct Track {
    now: InstanceNow,
    history: VecDeque<Point>,
}

/// What a worker's host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostNow {
    /// In use on the whole host, from its heartbeat.
    pub load: Share,
    /// Its disk and its traffic in the mesh, once it has told them.
    pub told: Option<HostStats>,
}

/// What an instance uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceNow {
    /// When its worker told it, by our clock.
    pub at: OffsetDateTime,
    /// The last reading.
    pub usage: Usage,
    /// Since the reading before; none after the first one.
    pub rates: Option<Rates>,
}

/// An instant in an instance's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// When, by our clock.
    pub at: OffsetDateTime,
    /// Processor time in the seconds before, in thousandths of a core.
    pub cpu_millis: u32,
    /// Memory.
    pub memory_bytes: u64,
}

impl HostNow {
    /// Whether its disk has less room than a deploy wants.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.told.is_some_and(|told| {
            told.disk_bytes > 0
                && told.disk_bytes.saturating_sub(told.disk_bytes_used) < told.disk_bytes_wanted
        })
    }
}

impl WorkerStats {
    fn host(&self, now: OffsetDateTime) -> Option<HostNow> {
        let (_, load) = self.load.filter(|(at, _)| now - *at <= AGE_MAX)?;
        let told = self.told.filter(|(at, _)| now - *at <= AGE_MAX).map(|(_, told)| told);
        Some(HostNow { load, told })
    }
}

impl Stats {
    /// A worker has registered, and has this for instances.
    pub fn registered(&self, worker: &Label, capacity: Share) {
        self.lock().entry(worker.clone()).or_default().capacity = Some(capacity);
    }

    /// A worker said how used its host is.
    pub fn heartbeat(&self, worker: &Label, heartbeat: &Heartbeat, now: OffsetDateTime) {
        let load = Share { memory_bytes: heartbeat.memory_bytes_used, cpu_millis: heartbeat.cpu_millis_used };
        self.lock().entry(worker.clone()).or_default().load = Some((now, load));
    }

    /// A worker said what its instances use.
    pub fn told(&self, worker: &Label, stats: &AppStats, now: OffsetDateTime) {
        let mut workers = self.lock();
        let worker = workers.entry(worker.clone()).or_default();
        let elapsed_ms = stats.observed_at_ms.saturating_sub(worker.observed_at_ms);
        let mut before = std::mem::take(&mut worker.instances);
        worker.told = Some((now, stats.host));
        worker.observed_at_ms = stats.observed_at_ms;
        worker.instances = stats
            .instances
            .iter()
            .map(|told| {
                let before = before.remove(&told.instance_id);
                (told.instance_id, Track::next(before, told.usage, elapsed_ms, now))
            })
            .collect();
    }

    /// What the host of a worker uses now, if it was heard of lately.
    #[must_use]
    pub fn host(&self, worker: &Label, now: OffsetDateTime) -> Option<HostNow> {
        self.lock().get(worker)?.host(now)
    }

    /// What these workers have said themselves.
    #[must_use]
    pub fn outlines(&self, workers: Vec<Label>, now: OffsetDateTime) -> Vec<Outline> {
        let stats = self.lock();
        let outline = |name: Label| {
            let said = stats.get(&name);
            let host = said.and_then(|said| said.host(now));
            Outline {
                capacity: said.and_then(|said| said.capacity),
                load: host.map(|host| host.load),
                disk_full: host.is_some_and(|host| host.is_disk_full()),
                name,
            }
        };
        workers.into_iter().map(outline).collect()
    }

    /// What an instance of a worker uses now, if it was heard of lately.
    #[must_use]
    pub fn instance(&self, worker: &Label, id: InstanceId, now: OffsetDateTime) -> Option<InstanceNow> {
        let workers = self.lock();
        let track = workers.get(worker)?.instances.get(&id)?;
        Some(track.now).filter(|latest| now - latest.at <= AGE_MAX)
    }

    /// What an instance of a worker used lately, oldest first.
    #[must_use]
    pub fn history(&self, worker: &Label, id: InstanceId) -> Vec<Point> {
        let workers = self.lock();
        let track = workers.get(worker).and_then(|worker| worker.instances.get(&id));
        track.map(|track| track.history.iter().copied().collect()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Label, WorkerStats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Track {
    fn next(before: Option<Self>, usage: Usage, elapsed_ms: u64, at: OffsetDateTime) -> Self {
        let rates = before.as_ref().and_then(|before| usage::rates(&before.now.usage, &usage, elapsed_ms));
        let mut history = before.map(|before| before.history).unwrap_or_default();
        if let Some(rates) = rates {
            if history.len() == HISTORY_LEN {
                history.pop_front();
            }
            history.push_back(Point { at, cpu_millis: rates.cpu_millis, memory_bytes: usage.memory_bytes });
        }
        Self { now: InstanceNow { at, usage, rates }, history }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use wisehosting_protocol::payload::InstanceStats;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn label(text: &str) -> Label {
        text.parse().expect("a label")
    }

    fn id(n: u128) -> InstanceId {
        InstanceId(Uuid::from_u128(n))
    }

    /// A worker's word after so many seconds, of instances with this processor time in seconds.
    fn tell(stats: &Stats, after_s: u64, instances: &[(InstanceId, u64)]) {
        let instance = |(instance_id, cpu_s): &(InstanceId, u64)| InstanceStats {
            instance_id: *instance_id,
            usage: Usage { cpu_us: cpu_s * 1_000_000, memory_bytes: 7, ..Usage::default() },
        };
        let told = AppStats {
            observed_at_ms: 1_000_000 + after_s * 1_000,
            host: HostStats::default(),
            instances: instances.iter().map(instance).collect(),
        };
        stats.told(&label("a"), &told, NOW + std::time::Duration::from_secs(after_s));
    }

    fn cpu_millis(stats: &Stats, n: u128, after_s: i64) -> Option<Option<u32>> {
        let now = stats.instance(&label("a"), id(n), NOW + Duration::seconds(after_s))?;
        Some(now.rates.map(|rates| rates.cpu_millis))
    }

    #[test]
    fn rates_come_with_the_second_reading_and_span_one_that_was_lost() {
        let stats = Stats::default();
        tell(&stats, 0, &[(id(1), 100)]);
        assert_eq!(cpu_millis(&stats, 1, 0), Some(None));
        tell(&stats, 10, &[(id(1), 105), (id(2), 3)]);
        assert_eq!((cpu_millis(&stats, 1, 10), cpu_millis(&stats, 2, 10)), (Some(Some(500)), Some(None)));
        tell(&stats, 30, &[(id(1), 125)]);
        assert_eq!(cpu_millis(&stats, 1, 30), Some(Some(1_000)));
        assert_eq!(cpu_millis(&stats, 2, 30), None, "it was not named");
        let history = stats.history(&label("a"), id(1));
        assert_eq!(history.iter().map(|point| point.cpu_millis).collect::<Vec<_>>(), [500, 1_000]);
        assert!(stats.instance(&label("b"), id(1), NOW).is_none(), "it is another worker's");
    }

    #[test]
    fn what_is_old_is_not_shown() {
        let stats = Stats::default();
        let heartbeat = Heartbeat {
            memory_bytes_used: 5,
            cpu_millis_used: 6,
            instances: Some(0),
            running_jobs: Vec::new(),
        };
        stats.heartbeat(&label("a"), &heartbeat, NOW);
        tell(&stats, 10, &[(id(1), 1)]);
        let load = Share { memory_bytes: 5, cpu_millis: 6 };
        let told = Some(HostStats::default());
        assert_eq!(stats.host(&label("a"), NOW + AGE_MAX), Some(HostNow { load, told }));
        assert_eq!(stats.host(&label("a"), NOW + AGE_MAX + Duration::SECOND), None);
        assert!(stats.instance(&label("a"), id(1), NOW + AGE_MAX + Duration::seconds(10)).is_some());
        assert!(stats.instance(&label("a"), id(1), NOW + AGE_MAX + Duration::seconds(11)).is_none());
    }

    #[test]
    fn the_past_is_bounded() {
        let stats = Stats::default();
        for n in 0..100 {
            tell(&stats, n * 10, &[(id(1), n)]);
        }
        let history = stats.history(&label("a"), id(1));
        assert_eq!(history.len(), HISTORY_LEN);
        assert_eq!(history.last().map(|point| point.at), Some(NOW + Duration::seconds(990)));
    }
}
