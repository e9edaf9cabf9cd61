//! Whether the kernel has just ended a program of this host for its memory.
//!
//! Podman 4 does not always learn of such an end: with control groups of version 1 it may look too late, and what its
//! helper notes is not always where it looks. The kernel's own count misses none, but is of the whole host. Invariant: it is asked only about a program that
//! SIGKILL has ended, and answers for the last moments only.

use std::{fs, time::Duration};
use tokio::time::Instant;

/// Exit status of a program that SIGKILL has ended.
const KILLED: i64 = 137;
/// An end is seen this long after it at the latest.
const RECENT: Duration = Duration::from_secs(15);

/// The kernel's count of such ends.
#[derive(Debug)]
pub(crate) struct MemoryKills {
    count: u64,
    risen_at: Option<Instant>,
}

impl MemoryKills {
    /// Counts from now on.
    pub(crate) fn new() -> Self {
        Self { count: kernel_count(), risen_at: None }
    }

    /// Looks at the count.
    pub(crate) fn look(&mut self, now: Instant) {
        let count = kernel_count();
        if count > self.count {
            self.risen_at = Some(now);
        }
        self.count = count;
    }

    /// Whether a program that ended with this exit status ended for its memory, as far as the count tells.
    pub(crate) fn explains(&self, exit_code: i64, now: Instant) -> bool {
        let recent = self.risen_at.is_some_and(|at| now.duration_since(at) <= RECENT);
        exit_code == KILLED && recent
    }
}

/// Programs that the kernel has ended since the host was started; 0 where it does not say.
fn kernel_count() -> u64 {
    count_in(&fs::read_to_string("/proc/vmstat").unwrap_or_default())
}

fn count_in(vmstat: &str) -> u64 {
    let line = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_by_name() {
        assert_eq!(count_in("numa_hit 5\noom_kill 3\noom_kill_x 4\n"), 3);
        assert_eq!(count_in(""), 0);
    }

    #[test]
    fn only_a_killed_program_is_explained_and_not_for_long() {
        let now = Instant::now();
        let kills = MemoryKills { count: 1, risen_at: Some(now) };
        assert!(kills.explains(137, now));
        assert!(!kills.explains(1, now));
        assert!(!kills.explains(137, now + RECENT * 2));
    }
}
