//! Which of its instances a worker still has that is back.
//!
//! It says of each what it does, and in every heartbeat how many run. One that it has had the time to name and did not is gone:
//! it was removed while the agent was not there to see it. Heartbeats tell how much time the worker had, whatever our own
//! clock and process did.

use std::collections::HashSet;

use time::OffsetDateTime;
use wisehosting_domain::id::InstanceId;

/// With the first at once and the others ten seconds apart, a worker has looked at its instances several times.
const HEARTBEATS: u32 = 4;

/// The roll call of one connection.
#[derive(Debug)]
pub(super) struct RollCall {
    /// What the worker was given later, it need not have yet.
    pub(super) since: OffsetDateTime,
    named: HashSet<InstanceId>,
    heartbeats: u32,
}

impl RollCall {
    /// Begins with the connection.
    pub(super) fn begin(now: OffsetDateTime) -> Self {
        Self { since: now, named: HashSet::new(), heartbeats: 0 }
    }

    /// The worker spoke of this one.
    pub(super) fn name(&mut self, instance: InstanceId) {
        self.named.insert(instance);
    }

    /// A heartbeat came, of a worker that has seen so many run; says whether the roll call is over.
    pub(super) fn heartbeat(&mut self, running: Option<u32>) -> bool {
        // It may have had no way to look at its instances yet.
        let Some(running) = running else { return false };
        self.heartbeats += 1;
        // One whose engine does not answer knows how many it has, and cannot name them yet.
        self.heartbeats >= HEARTBEATS && self.named.len() >= usize::try_from(running).unwrap_or(usize::MAX)
    }

    /// Whether it was named.
    pub(super) fn has(&self, instance: InstanceId) -> bool {
        self.named.contains(&instance)
    }
}
