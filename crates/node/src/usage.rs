//! How much of this host is in use, from `/proc` and the file systems.
//!
//! Invariant: a figure that cannot be read is 0, which is never a reason to stop reporting.

use nix::sys::statvfs::statvfs;
use std::{fs, path::Path, sync::Mutex, thread};
use wisehosting_protocol::payload::Capacity;

/// One part in so many of the memory is the host's own: for its system, its agent and the engine.
const HOST_PART: u64 = 10;

/// What the host has for instances.
#[must_use]
pub fn capacity() -> Capacity {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Capacity {
        memory_bytes: without_host_part(kib(&memory, "MemTotal:") * 1_024),
        cpu_millis: u32::try_from(cores * 1_000).unwrap_or(u32::MAX),
    }
}

fn without_host_part(memory_bytes: u64) -> u64 {
    memory_bytes - memory_bytes / HOST_PART
}

/// Memory in use on the whole host, in bytes.
#[must_use]
pub fn memory_bytes() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    (kib(&memory, "MemTotal:").saturating_sub(kib(&memory, "MemAvailable:"))) * 1_024
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub bytes: u64,
    /// What is in use.
    pub bytes_used: u64,
}

/// The file system that this folder is in.
#[must_use]
pub fn disk(folder: &Path) -> Disk {
    let Ok(stat) = statvfs(folder) else { return Disk::default() };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Disk { bytes: bytes(stat.blocks()), bytes_used: bytes(stat.blocks().saturating_sub(stat.blocks_free())) }
}

/// Measures processor time from one question to the next.
#[derive(Debug, Default)]
pub struct CpuMeter(Mutex<CpuTime>);

impl CpuMeter {
    /// Processor time in use on the whole host since the last call, in thousandths of a core.
    pub fn millis(&self) -> u32 {
        let now = CpuTime::parse(&fs::read_to_string("/proc/stat").unwrap_or_default());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let used = now.millis_since(*last, u64::try_from(cores).unwrap_or(1));
        *last = now;
        used
    }
}

/// Ticks of all processors since the host started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTime {
    busy: u64,
    total: u64,
}

impl CpuTime {
    /// From the line `cpu  user nice system idle iowait irq softirq steal …`.
    fn parse(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        let total = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self { busy: total - idle, total }
    }

    fn millis_since(self, earlier: Self, cores: u64) -> u32 {
        let total = self.total.saturating_sub(earlier.total);
        let busy = self.busy.saturating_sub(earlier.busy);
        let millis = (busy * cores * 1_000).checked_div(total).unwrap_or_default();
        u32::try_from(millis).unwrap_or(u32::MAX)
    }
}

fn kib(meminfo: &str, name: &str) -> u64 {
    let row = meminfo.lines().find_map(|line| line.strip_prefix(name));
    row.and_then(|row| row.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_waiting_for_disks_do_not_count() {
        let earlier = CpuTime::parse("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 2 3");
        let later = CpuTime::parse("cpu  30 0 15 130 20 3 2 0 0 0\n");
        assert_eq!(later.millis_since(earlier, 2), 30 * 2 * 1_000 / 100);
        assert_eq!(earlier.millis_since(earlier, 2), 0);
    }

    #[test]
    fn memory_is_read_by_name() {
        assert_eq!(kib("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal:"), 16_384);
        assert!(memory_bytes() > 0 && capacity().memory_bytes > 0);
    }

    #[test]
    fn a_tenth_of_the_memory_is_the_hosts_own() {
        assert_eq!(without_host_part(10 << 30), 9 << 30);
    }

    #[test]
    fn a_file_system_has_a_size() {
        let disk = disk(Path::new("/"));
        assert!(0 < disk.bytes_used && disk.bytes_used <= disk.bytes, "{disk:?}");
        assert_eq!(super::disk(Path::new("/nowhere/at/all")), Disk::default());
    }
}
