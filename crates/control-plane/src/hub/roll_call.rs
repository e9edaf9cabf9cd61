//! Which of its instances a worker still has that is back.
//!
//! It says of each what it does, and then in every heartbeat how many of those run. One that it has had the time to name and did
//! not is gone: it was removed while the agent was not there to see it. Heartbeats tell how much time the worker had, whatever
//! our own clock and process did.

use std::collections::{HashMap, HashSet};

use wisehosting_domain::id::InstanceId;

/// With the first at once and the others ten seconds apart, a worker has looked at its instances several times.
const HEARTBEATS: u32 = 4;

/// The roll call of one connection.
#[derive(Debug)]
pub(super) struct RollCall {
    /// What it had been given when it began. What it is given later, it need not have yet.
    expected: HashSet<InstanceId>,
    /// Whether each that was named runs, as last said.
    named: HashMap<InstanceId, bool>,
    heartbeats: u32,
}

impl RollCall {
    /// Begins with the connection of a worker that has been given these.
    pub(super) fn begin(given: impl IntoIterator<Item = InstanceId>) -> Self {
        Self { expected: given.into_iter().collect(), named: HashMap::new(), heartbeats: 0 }
    }

    /// The worker spoke of this one.
    pub(super) fn name(&mut self, instance: InstanceId, running: bool) {
        self.named.insert(instance, running);
    }

    /// A job about this one has ended. That may be long ago for the worker, and it may have lost it since; or it was a moment ago,
    /// and the worker needs its time to name it.
    pub(super) fn begin_again(&mut self, instance: InstanceId) {
        if self.misses(instance) {
            self.heartbeats = 0;
        }
    }

    /// A heartbeat came, of a worker that has named all, of which so many run; says whether the roll call is over.
    pub(super) fn heartbeat(&mut self, running: Option<u32>) -> bool {
        // It has not named all, or has had no way to look at its instances yet.
        let Some(running) = running else { return false };
        self.heartbeats += 1;
        // Heartbeats are sent before whatever else waits: the names may still be on their way.
        let named_as_running = self.named.values().filter(|running| **running).count();
        self.heartbeats >= HEARTBEATS && named_as_running >= usize::try_from(running).unwrap_or(usize::MAX)
    }

    /// Whether it should have been named, and was not.
    pub(super) fn misses(&self, instance: InstanceId) -> bool {
        self.expected.contains(&instance) && !self.named.contains_key(&instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InstanceId = InstanceId(uuid::Uuid::from_u128(1));
    const B: InstanceId = InstanceId(uuid::Uuid::from_u128(2));

    #[test]
    fn those_that_do_not_run_do_not_stand_for_those_that_do() {
        let mut call = RollCall::begin([A, B]);
        call.name(A, false);
        assert!(![Some(1); 10].into_iter().any(|running| call.heartbeat(running)));
        call.name(B, true);
        assert!(call.heartbeat(Some(1)));
        assert!(!call.misses(A), "it is there, although it does not run");
    }

    #[test]
    fn one_that_a_result_tells_of_has_to_be_named_as_well() {
        let mut call = RollCall::begin([A]);
        assert_eq!([(); 3].map(|()| call.heartbeat(Some(0))), [false; 3]);
        call.begin_again(B);
        call.begin_again(A);
        assert_eq!([(); 4].map(|()| call.heartbeat(Some(0))), [false, false, false, true]);
        assert!(call.misses(A));
    }

    #[test]
    fn only_heartbeats_of_a_worker_that_has_named_all_count() {
        let mut call = RollCall::begin([A]);
        assert!(![None; 10].into_iter().any(|running| call.heartbeat(running)));
        assert_eq!([(); 4].map(|()| call.heartbeat(Some(0))), [false, false, false, true]);
        assert!(call.misses(A));
        assert!(!call.misses(B), "it was given to the worker later");
    }
}
