//! How long to wait before the next attempt to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(20);
/// A connection that was open for this long was a good one: the next row of attempts begins anew.
const STABLE: Duration = Duration::from_secs(10);

/// Doubles from one second to twenty, to each of which chance adds up to a half.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The wait after a connection that was open for so long, or zero. `jitter`, from 0 up to 1, spreads the nodes that
    /// lost one hub over half the wait more.
    pub fn next(&mut self, open_for: Duration, jitter: f64) -> Duration {
        if open_for >= STABLE {
            self.next = FIRST;
        }
        let wait = self.next.mul_f64(1.0 + jitter / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        wait
    }

    /// Waits as long as it ever does from now on, until a connection is stable: the next attempt is not likely to fare better.
    pub fn slow_down(&mut self) {
        self.next = LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_begin_anew_after_a_stable_connection() {
        let mut backoff = Backoff::default();
        let mut waits = |open_for_s| backoff.next(Duration::from_secs(open_for_s), 0.0).as_secs();
        assert_eq!([(); 7].map(|()| waits(0)), [1, 2, 4, 8, 16, 20, 20]);
        assert_eq!([waits(1), waits(10), waits(0)], [20, 1, 2]);
    }

    #[test]
    fn jitter_adds_up_to_half() {
        assert_eq!(Backoff::default().next(Duration::ZERO, 1.0), Duration::from_millis(1_500));
        let mut slow = Backoff::default();
        slow.slow_down();
        assert_eq!(slow.next(Duration::ZERO, 1.0), Duration::from_secs(30));
    }
}
