//! What becomes of an instance whose program has ended: started again, or kept from running.
//!
//! Invariants: one that ends soon after its start is started less and less often; one that does so too many times in a
//! row, or that the kernel ended for its memory, is not started again by anybody but a new deployment.

use std::time::Duration;
use tokio::time::Instant;
use wisehosting_domain::state::ViolationKind;

/// How instances that end are treated.
#[derive(Clone, Copy, Debug)]
pub struct RestartPolicy {
    /// Before the first start after a program that ran well.
    pub first_pause: Duration,
    /// Before any start.
    pub longest_pause: Duration,
    /// A program that ran this long ran well.
    pub well: Duration,
    /// So many runs in a row that did not go well are a crash loop.
    pub short_runs_max: u32,
    /// Whether a program that SIGKILL ended counts as ended for its memory when the kernel says so and the engine does not. Not
    /// where the host's other programs are none of the worker's.
    pub trust_kernel: bool,
    /// An instance that does not run for this long counts as stopped.
    pub stopped_after: Duration,
}

impl Default for RestartPolicy {
    /// A crash loop takes about four minutes: longer than the things that a program waits for are mostly away.
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            well: Duration::from_secs(60),
            short_runs_max: 10,
            trust_kernel: true,
            stopped_after: Duration::from_secs(30),
        }
    }
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    /// How long the program ran.
    ran: Duration,
    /// Whether the kernel ended it for its memory.
    out_of_memory: bool,
    /// Runs in a row before this one that did not go well.
    short_runs: u32,
}

/// What follows from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Start it again, after a pause.
    Again { after: Duration, short_runs: u32 },
    /// Keep it from running.
    Keep(ViolationKind),
}

impl RestartPolicy {
    fn judge(&self, end: End) -> Verdict {
        if end.out_of_memory {
            return Verdict::Keep(ViolationKind::OutOfMemory);
        }
        if end.ran >= self.well {
            return Verdict::Again { after: self.first_pause, short_runs: 0 };
        }
        let short_runs = end.short_runs.saturating_add(1);
        if short_runs >= self.short_runs_max {
            return Verdict::Keep(ViolationKind::CrashLoop);
        }
        Verdict::Again { after: self.pause(end.short_runs), short_runs }
    }

    /// After so many failures before this one.
    fn pause(&self, failures: u32) -> Duration {
        self.first_pause.saturating_mul(2_u32.saturating_pow(failures)).min(self.longest_pause)
    }
}

/// What is to be done about a program that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Start it again at this moment.
    StartAt(Instant),
    /// Keep it from running.
    Keep(ViolationKind),
}

/// The runs of one program.
#[derive(Debug)]
pub(crate) struct Restarts {
    started: Instant,
    short_runs: u32,
    failed_starts: u32,
    step: Option<Step>,
}

impl Restarts {
    /// Of a program that was started now, or was found running.
    pub(crate) fn new(now: Instant) -> Self {
        Self { started: now, short_runs: 0, failed_starts: 0, step: None }
    }

    /// It has been seen to have ended. The answer stays the same until [`Self::started`].
    pub(crate) fn ended(&mut self, policy: &RestartPolicy, out_of_memory: bool, now: Instant) -> Step {
        if let Some(step) = self.step {
            return step;
        }
        let ran = now.duration_since(self.started);
        let step = match policy.judge(End { ran, out_of_memory, short_runs: self.short_runs }) {
            Verdict::Again { after, short_runs } => {
                self.short_runs = short_runs;
                Step::StartAt(now + after)
            }
            Verdict::Keep(kind) => Step::Keep(kind),
        };
        self.step = Some(step);
        step
    }

    /// Whether it is to be started, or kept from running.
    pub(crate) fn is_due(&self) -> bool {
        self.step.is_some()
    }

    /// The engine could not start it, which says nothing about the program: another try is due later.
    pub(crate) fn not_started(&mut self, policy: &RestartPolicy, now: Instant) {
        let due = now + policy.pause(self.failed_starts);
        self.failed_starts = self.failed_starts.saturating_add(1);
        self.step = Some(Step::StartAt(due));
    }

    /// It was started again.
    pub(crate) fn started(&mut self, now: Instant) {
        self.started = now;
        self.failed_starts = 0;
        self.step = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_verdict() {
        let policy = RestartPolicy::default();
        let again = |seconds, short_runs| Verdict::Again { after: Duration::from_secs(seconds), short_runs };
        let loops = Verdict::Keep(ViolationKind::CrashLoop);
        let memory = Verdict::Keep(ViolationKind::OutOfMemory);
        for (ran_s, out_of_memory, short_runs, expected) in [
            (0, false, 0, again(1, 1)),
            (59, false, 1, again(2, 2)),
            (0, false, 4, again(16, 5)),
            (0, false, 6, again(60, 7)),
            (0, false, 8, again(60, 9)),
            (0, false, 9, loops),
            (59, false, 9, loops),
            (60, false, 9, again(1, 0)),
            (1_000, false, 0, again(1, 0)),
            (0, true, 0, memory),
            (1_000, true, 9, memory),
        ] {
            let end = End { ran: Duration::from_secs(ran_s), out_of_memory, short_runs };
            assert_eq!(policy.judge(end), expected, "{end:?}");
        }
    }

    #[test]
    fn a_start_that_fails_is_no_run_and_is_tried_for_ever() {
        let policy = RestartPolicy::default();
        let mut now = Instant::now();
        let mut restarts = Restarts::new(now);
        restarts.ended(&policy, false, now);
        for _ in 0..3 * policy.short_runs_max {
            restarts.not_started(&policy, now);
            let Step::StartAt(due) = restarts.ended(&policy, false, now) else { panic!("{restarts:?}") };
            assert!(due > now && due <= now + policy.longest_pause);
            now = due;
        }
        restarts.started(now);
        restarts.not_started(&policy, now);
        let step = restarts.ended(&policy, false, now);
        assert_eq!(step, Step::StartAt(now + policy.first_pause), "the next failure is a new one");
    }

    #[test]
    fn an_end_that_is_seen_again_counts_once() {
        let policy = RestartPolicy { short_runs_max: 3, ..RestartPolicy::default() };
        let mut now = Instant::now();
        let mut restarts = Restarts::new(now);
        for _ in 1..policy.short_runs_max {
            let step = restarts.ended(&policy, false, now);
            assert_eq!(restarts.ended(&policy, false, now + Duration::from_millis(500)), step);
            let Step::StartAt(due) = step else { panic!("{step:?}") };
            now = due;
            restarts.started(now);
        }
        let kept = Step::Keep(ViolationKind::CrashLoop);
        assert_eq!(restarts.ended(&policy, false, now), kept);
        assert_eq!(restarts.ended(&policy, false, now + policy.well), kept, "time does not mend it");
    }
}
