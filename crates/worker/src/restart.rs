//! When a program that ended is started again.
//!
//! Invariant: one that ends at once again and again is started less and less often, down to once a minute; one that had
//! run well for a while is started soon.

use std::time::Duration;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A program that ran this long ran well.
const WELL: Duration = Duration::from_secs(60);

/// The starts of one program.
#[derive(Debug)]
pub(crate) struct Restarts {
    pause: Duration,
    started: Instant,
    due: Option<Instant>,
}

impl Restarts {
    /// Of a program that was started now, or was found running.
    pub(crate) fn new(now: Instant) -> Self {
        Self { pause: FIRST_PAUSE, started: now, due: None }
    }

    /// When to start it again: it has been seen to have ended. The answer stays the same until [`Self::started`].
    pub(crate) fn due(&mut self, now: Instant) -> Instant {
        *self.due.get_or_insert_with(|| {
            if now.duration_since(self.started) >= WELL {
                self.pause = FIRST_PAUSE;
            }
            now + self.pause
        })
    }

    /// It was started again.
    pub(crate) fn started(&mut self, now: Instant) {
        self.started = now;
        self.due = None;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_for_a_program_that_ends_at_once() {
        let mut now = Instant::now();
        let mut restarts = Restarts::new(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let due = restarts.due(now);
            assert_eq!(restarts.due(now + Duration::from_millis(500)), due, "asked again, the same answer");
            pauses.push((due - now).as_secs());
            now = due;
            restarts.started(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        now += WELL;
        assert_eq!(restarts.due(now) - now, FIRST_PAUSE, "it had run well");
    }
}
