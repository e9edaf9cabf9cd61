//! How long ago handshakes were, by a clock that nobody sets. Pure.
//!
//! The kernel says of a handshake which time it was then; the difference to the time of now is the age only if the clock was not set
//! in between. Invariant: a handshake that came between two looks is never older than the first of them, and one that was
//! there at the first look has an age only if that can be true.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::PublicKey;

/// The handshakes at the last look.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    looked_at: Option<Instant>,
    seen: BTreeMap<PublicKey, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// As the kernel says it.
    at: SystemTime,
    /// By the clock that nobody sets; unknown if it lay in the future when it was first seen.
    was: Option<Was>,
}

#[derive(Debug, Clone, Copy)]
struct Was {
    seen_at: Instant,
    age: Duration,
}

impl Handshakes {
    /// The ages of the handshakes that the kernel tells of, at a look. `elapsed` says how long ago a time is, none if it is
    /// in the future.
    pub(super) fn look(
        &mut self,
        told: impl Iterator<Item = (PublicKey, SystemTime)>,
        elapsed: impl Fn(SystemTime) -> Option<Duration>,
        now: Instant,
    ) -> BTreeMap<PublicKey, Duration> {
        let since_last_look = self.looked_at.map(|looked_at| now.duration_since(looked_at));
        let seen = told.map(|(key, at)| match self.seen.get(&key) {
            Some(seen) if seen.at == at => (key, *seen),
            _ => {
                let age = match since_last_look {
                    Some(longest) => Some(elapsed(at).unwrap_or_default().min(longest)),
                    None => elapsed(at),
                };
                (key, Seen { at, was: age.map(|age| Was { seen_at: now, age }) })
            }
        });
        self.seen = seen.collect();
        self.looked_at = Some(now);
        let age = |seen: &Seen| seen.was.map(|was| was.age + now.duration_since(was.seen_at));
        self.seen.iter().filter_map(|(key, seen)| Some((*key, age(seen)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_S: u64 = 3_600;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    /// A machine whose clock may be set; it looks every second.
    struct Machine {
        handshakes: Handshakes,
        clock_s: u64,
        now: Instant,
    }

    impl Machine {
        fn new() -> Self {
            Self { handshakes: Handshakes::default(), clock_s: 10 * HOUR_S, now: Instant::now() }
        }

        /// Looks at these handshakes, of keys 1, 2 and so on; their ages in seconds.
        fn look(&mut self, told_s: &[u64]) -> Vec<Option<u64>> {
            let time = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
            let clock = time(self.clock_s);
            let told = (1..).map(key).zip(told_s.iter().map(|s| time(*s)));
            let ages = self.handshakes.look(told, |at| clock.duration_since(at).ok(), self.now);
            (1..).map(key).take(told_s.len()).map(|key| ages.get(&key).map(Duration::as_secs)).collect()
        }

        fn wait(&mut self, s: u64) {
            self.clock_s += s;
            self.now += Duration::from_secs(s);
        }
    }

    #[test]
    fn ages_are_those_of_the_clock_until_it_is_set() {
        let mut machine = Machine::new();
        let at = machine.clock_s - 5;
        assert_eq!(machine.look(&[at]), [Some(5)]);
        machine.wait(1);
        assert_eq!(machine.look(&[at]), [Some(6)]);
        for set_to in [HOUR_S, 20 * HOUR_S] {
            machine.clock_s = set_to;
            machine.wait(1);
            let at_now = set_to;
            assert_eq!(machine.look(&[at, at_now]), [Some(if set_to == HOUR_S { 7 } else { 8 }), Some(1)]);
        }
    }

    #[test]
    fn the_key_that_spoke_last_is_the_younger_one_although_the_clock_was_set_back() {
        let mut machine = Machine::new();
        let old = machine.clock_s - 2;
        machine.look(&[old]);
        machine.clock_s -= HOUR_S;
        machine.wait(10);
        let new = machine.clock_s - 1;
        assert_eq!(machine.look(&[old, new]), [Some(12), Some(1)]);
    }

    #[test]
    fn a_handshake_of_the_future_has_no_age_until_there_is_another() {
        let mut machine = Machine::new();
        let future = machine.clock_s + HOUR_S;
        assert_eq!(machine.look(&[future]), [None]);
        machine.wait(2 * HOUR_S);
        assert_eq!(machine.look(&[future]), [None], "nobody knows how long it was in the future");
        machine.wait(1);
        assert_eq!(machine.look(&[machine.clock_s]), [Some(0)]);
    }

    #[test]
    fn a_handshake_between_two_looks_is_no_older_than_the_first_of_them() {
        let mut machine = Machine::new();
        machine.look(&[]);
        // Set forward after the handshake.
        let at = machine.clock_s;
        machine.wait(2);
        machine.clock_s += HOUR_S;
        assert_eq!(machine.look(&[at]), [Some(2)]);
        machine.wait(2);
        assert_eq!(machine.look(&[machine.clock_s + HOUR_S]), [Some(0)], "set back after it");
    }
}
