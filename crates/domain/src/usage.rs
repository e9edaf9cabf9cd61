//! What an instance uses: counters as the kernel keeps them, and what follows from two readings of them.
//!
//! Counters travel and rates are made where they are shown, so a reading that is lost makes the next rate an average over
//! a longer time instead of a wrong one.

use serde::{Deserialize, Serialize};

/// One reading of what an instance uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Processor time since its start, in microseconds.
    pub cpu_us: u64,
    /// Memory in use, without what the kernel keeps of files and can take back at once.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// What it has received over its network link since its start.
    pub received_bytes: u64,
    /// What it has sent there.
    pub sent_bytes: u64,
    /// What it has written to its own disk and not removed, as of the last time that it was counted.
    pub disk_bytes: Option<u64>,
    /// What it has had read from disks since its start; none where the kernel does not count it.
    pub disk_read_bytes: Option<u64>,
    /// What it has had written to disks since its start, as that.
    pub disk_written_bytes: Option<u64>,
}

/// What an instance used between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u32,
    /// Received in a second.
    pub received_bytes_per_s: u64,
    /// Sent in a second.
    pub sent_bytes_per_s: u64,
    /// Read from disks in a second; none where it is not counted.
    pub disk_read_bytes_per_s: Option<u64>,
    /// Written to disks in a second, as that.
    pub disk_written_bytes_per_s: Option<u64>,
}

/// What was used from one reading to the next, `elapsed_ms` later; none if no time lies between them, or if a counter went
/// back, since the instance was started again in between.
#[must_use]
pub fn rates(earlier: &Usage, later: &Usage, elapsed_ms: u64) -> Option<Rates> {
    let per_s = |earlier: u64, later: u64| {
        let per_s = u128::from(later.checked_sub(earlier)?) * 1_000;
        u64::try_from(per_s.checked_div(elapsed_ms.into())?).ok()
    };
    let counted_per_s = |earlier: Option<u64>, later: Option<u64>| match (earlier, later) {
        (Some(earlier), Some(later)) => per_s(earlier, later).map(Some),
        _ => Some(None),
    };
    Some(Rates {
        // Microseconds a second are millionths of a core.
        cpu_millis: u32::try_from(per_s(earlier.cpu_us, later.cpu_us)? / 1_000).ok()?,
        received_bytes_per_s: per_s(earlier.received_bytes, later.received_bytes)?,
        sent_bytes_per_s: per_s(earlier.sent_bytes, later.sent_bytes)?,
        disk_read_bytes_per_s: counted_per_s(earlier.disk_read_bytes, later.disk_read_bytes)?,
        disk_written_bytes_per_s: counted_per_s(earlier.disk_written_bytes, later.disk_written_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLIER: Usage = Usage {
        cpu_us: 5_000_000,
        memory_bytes: 1,
        processes: 1,
        received_bytes: 1_000,
        sent_bytes: 2_000,
        disk_bytes: None,
        disk_read_bytes: Some(4_000),
        disk_written_bytes: Some(5_000),
    };

    #[test]
    fn rates_are_per_second_whatever_lies_between_the_readings() {
        let later =
            Usage { cpu_us: 20_000_000, received_bytes: 11_000, disk_written_bytes: Some(45_000), ..EARLIER };
        let expected = Rates {
            cpu_millis: 1_500,
            received_bytes_per_s: 1_000,
            sent_bytes_per_s: 0,
            disk_read_bytes_per_s: Some(0),
            disk_written_bytes_per_s: Some(4_000),
        };
        assert_eq!(rates(&EARLIER, &later, 10_000), Some(expected));
        let uncounted = Usage { disk_read_bytes: None, disk_written_bytes: None, ..later };
        let expected = Rates {
            cpu_millis: 3_000,
            received_bytes_per_s: 2_000,
            sent_bytes_per_s: 0,
            disk_read_bytes_per_s: None,
            disk_written_bytes_per_s: None,
        };
        assert_eq!(rates(&EARLIER, &uncounted, 5_000), Some(expected));
    }

    #[test]
    fn a_program_that_was_started_again_has_no_rates_yet() {
        let back = [
            Usage { cpu_us: 4_999_999, ..EARLIER },
            Usage { sent_bytes: 0, ..EARLIER },
            Usage { disk_read_bytes: Some(0), ..EARLIER },
        ];
        for later in back {
            assert_eq!(rates(&EARLIER, &later, 10_000), None, "{later:?}");
        }
    }

    #[test]
    fn no_readings_make_it_panic() {
        let most = Usage { cpu_us: u64::MAX, received_bytes: u64::MAX, ..EARLIER };
        assert_eq!(rates(&EARLIER, &EARLIER, 0), None);
        assert_eq!(rates(&Usage::default(), &most, 1), None);
        assert_eq!(rates(&most, &most, u64::MAX).map(|rates| rates.cpu_millis), Some(0));
    }
}
