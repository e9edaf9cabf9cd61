//! Whether a worker can be relied on, and who notices when that changes.
//!
//! A machine that hangs, or that the network has cut off, keeps its connection for a while. So a worker must also have been
//! heard of lately.

use std::{collections::HashSet, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use wisehosting_domain::name::Label;
use wisehosting_store::{StoreError, pool, workers};

use crate::{
    events::{Change, ChangeKind},
    scheduler::leases,
    state::AppState,
    tasks::Reconciler,
};

const INTERVAL: Duration = Duration::from_secs(5);

/// Whether a worker can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerHealth {
    /// It is connected, and was heard of lately.
    Connected,
    /// It is connected, but has missed three heartbeats: it gets no new instances.
    Silent,
    /// It is not connected.
    Away,
}

impl WorkerHealth {
    /// That of a worker that was last heard of then.
    #[must_use]
    pub fn of(connected: bool, last_seen_at: Option<OffsetDateTime>, now: OffsetDateTime) -> Self {
        match last_seen_at {
            _ if !connected => Self::Away,
            // A time to come is of before our clock was set back.
            Some(seen) if (now - seen).abs() <= leases::SILENCE_MAX => Self::Connected,
            _ => Self::Silent,
        }
    }
}

/// Tells of workers that fall silent, and that this is over.
pub struct HealthWatch {
    state: AppState,
    silent: HashSet<Label>,
}

impl HealthWatch {
    /// Begins to watch.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        Self { state, silent: HashSet::new() }
    }
}

impl Reconciler for HealthWatch {
    const NAME: &'static str = "worker health";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        let mut connection = pool::acquire(&self.state.pool).await?;
        let workers = workers::list(&mut connection).await?;
        drop(connection);
        let (hub, now) = (&self.state.hub, self.state.clock.now());
        let is_silent = |worker: &workers::Worker| {
            WorkerHealth::of(hub.is_connected(&worker.name), worker.last_seen_at, now) == WorkerHealth::Silent
        };
        let silent: HashSet<Label> =
            workers.into_iter().filter(is_silent).map(|worker| worker.name).collect();
        if silent != self.silent {
            for name in silent.difference(&self.silent) {
                tracing::warn!(worker.name = %name, "a worker is silent, although it is connected: it gets no new instances");
            }
            for name in self.silent.difference(&silent) {
                tracing::info!(worker.name = %name, "a worker is not silent any more");
            }
            self.silent = silent;
            self.state.changes.publish(Change::of_all(ChangeKind::Node));
        }
        Ok(INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_connected_silent_or_away() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let before = |seconds| Some(now - time::Duration::seconds(seconds));
        for (connected, seen, expected) in [
            (true, before(30), WorkerHealth::Connected),
            (true, before(31), WorkerHealth::Silent),
            (true, before(-31), WorkerHealth::Silent),
            (true, None, WorkerHealth::Silent),
            (false, before(0), WorkerHealth::Away),
        ] {
            assert_eq!(WorkerHealth::of(connected, seen, now), expected, "{connected} {seen:?}");
        }
    }
}
