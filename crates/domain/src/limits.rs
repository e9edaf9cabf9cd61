//! What an instance may use of its worker.
//!
//! A value is within the bounds below by construction; a limit that a container could not even start with is refused
//! when it is asked for, not when it fails.

use serde::{Deserialize, Serialize};

const MIB: u64 = 1024 * 1024;

/// Least memory that a container is given: below this the container runtime itself does not start.
pub const MEMORY_BYTES_MIN: u64 = 16 * MIB;
/// Most memory that one instance may ask for.
pub const MEMORY_BYTES_MAX: u64 = 256 * 1024 * MIB;
/// Least and most processor time, in thousandths of one core.
pub const CPU_MILLIS: std::ops::RangeInclusive<u32> = 50..=64_000;
/// Least and most processes and threads.
pub const PIDS: std::ops::RangeInclusive<u32> = 8..=32_768;
/// Least and most traffic in each direction, in bits per second.
pub const BANDWIDTH_BITS_PER_S: std::ops::RangeInclusive<u64> = 100_000..=10_000_000_000;
/// Least and most that it may write to its disk and keep there, in bytes.
pub const DISK_BYTES: std::ops::RangeInclusive<u64> = 16 * MIB..=16 * 1024 * 1024 * MIB;

/// Why limits are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Memory out of bounds.
    #[error("a memory limit of {0} bytes is out of bounds: use 16 MiB to 256 GiB")]
    Memory(u64),
    /// Processor time out of bounds.
    #[error("a CPU limit of {0} thousandths of a core is out of bounds: use 50 to 64000")]
    Cpu(u32),
    /// Process count out of bounds.
    #[error("a limit of {0} processes is out of bounds: use 8 to 32768")]
    Pids(u32),
    /// Traffic out of bounds.
    #[error("a bandwidth limit of {0} bits per second is out of bounds: use 100 kbit/s to 10 Gbit/s")]
    Bandwidth(u64),
    /// Disk out of bounds.
    #[error("a disk limit of {0} bytes is out of bounds: use 16 MiB to 16 TiB")]
    Disk(u64),
}

/// The limits of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawLimits", into = "RawLimits")]
pub struct Limits {
    memory_bytes: u64,
    cpu_millis: u32,
    pids: u32,
    bandwidth_bits_per_s: Option<u64>,
    disk_bytes: Option<u64>,
}

/// The shape of [`Limits`] on the wire, before it is checked.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    memory_bytes: u64,
    cpu_millis: u32,
    pids: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bandwidth_bits_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_bytes: Option<u64>,
}

impl Limits {
    /// Limits within the bounds of this module; traffic and disk are not limited.
    ///
    /// # Errors
    /// The first value that is out of bounds.
    pub fn new(memory_bytes: u64, cpu_millis: u32, pids: u32) -> Result<Self, LimitsError> {
        if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory_bytes) {
            return Err(LimitsError::Memory(memory_bytes));
        }
        if !CPU_MILLIS.contains(&cpu_millis) {
            return Err(LimitsError::Cpu(cpu_millis));
        }
        if !PIDS.contains(&pids) {
            return Err(LimitsError::Pids(pids));
        }
        Ok(Self { memory_bytes, cpu_millis, pids, bandwidth_bits_per_s: None, disk_bytes: None })
    }

    /// The same with this limit on traffic, or with none.
    ///
    /// # Errors
    /// It is out of bounds.
    pub fn with_bandwidth(self, bits_per_s: Option<u64>) -> Result<Self, LimitsError> {
        match bits_per_s {
            Some(bits) if !BANDWIDTH_BITS_PER_S.contains(&bits) => Err(LimitsError::Bandwidth(bits)),
            bandwidth_bits_per_s => Ok(Self { bandwidth_bits_per_s, ..self }),
        }
    }

    /// The same with this limit on what it writes to its disk, or with none.
    ///
    /// # Errors
    /// It is out of bounds.
    pub fn with_disk(self, bytes: Option<u64>) -> Result<Self, LimitsError> {
        match bytes {
            Some(bytes) if !DISK_BYTES.contains(&bytes) => Err(LimitsError::Disk(bytes)),
            disk_bytes => Ok(Self { disk_bytes, ..self }),
        }
    }

    /// Memory and swap together, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Processor time in thousandths of one core.
    #[must_use]
    pub fn cpu_millis(&self) -> u32 {
        self.cpu_millis
    }

    /// Processes and threads.
    #[must_use]
    pub fn pids(&self) -> u32 {
        self.pids
    }

    /// Traffic in each direction, in bits per second; none if it is not limited.
    #[must_use]
    pub fn bandwidth_bits_per_s(&self) -> Option<u64> {
        self.bandwidth_bits_per_s
    }

    /// What it may write to its disk and keep there, in bytes; none if that is not limited.
    #[must_use]
    pub fn disk_bytes(&self) -> Option<u64> {
        self.disk_bytes
    }
}

impl Default for Limits {
    fn default() -> Self {
        let (bandwidth_bits_per_s, disk_bytes) = (None, None);
        Self { memory_bytes: 256 * MIB, cpu_millis: 1_000, pids: 512, bandwidth_bits_per_s, disk_bytes }
    }
}

impl TryFrom<RawLimits> for Limits {
    type Error = LimitsError;

    fn try_from(raw: RawLimits) -> Result<Self, Self::Error> {
        let limits = Self::new(raw.memory_bytes, raw.cpu_millis, raw.pids)?;
        limits.with_bandwidth(raw.bandwidth_bits_per_s)?.with_disk(raw.disk_bytes)
    }
}

impl From<Limits> for RawLimits {
    fn from(limits: Limits) -> Self {
        let Limits { memory_bytes, cpu_millis, pids, bandwidth_bits_per_s, disk_bytes } = limits;
        Self { memory_bytes, cpu_millis, pids, bandwidth_bits_per_s, disk_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_nothing_can_start_with_is_refused() {
        assert_eq!(Limits::new(1, 1_000, 512), Err(LimitsError::Memory(1)));
        assert_eq!(Limits::new(64 * MIB, 0, 512), Err(LimitsError::Cpu(0)));
        assert_eq!(Limits::new(64 * MIB, 1_000, 1), Err(LimitsError::Pids(1)));
        let limits = Limits::new(64 * MIB, 500, 64).unwrap();
        assert_eq!(limits.with_bandwidth(Some(99_999)), Err(LimitsError::Bandwidth(99_999)));
        assert_eq!(limits.with_bandwidth(Some(10_000_000_001)), Err(LimitsError::Bandwidth(10_000_000_001)));
        assert_eq!(limits.with_bandwidth(Some(100_000)).unwrap().bandwidth_bits_per_s(), Some(100_000));
        assert_eq!(limits.with_disk(Some(1)), Err(LimitsError::Disk(1)));
        assert_eq!(limits.with_disk(Some(u64::MAX)), Err(LimitsError::Disk(u64::MAX)));
        assert_eq!(limits.with_disk(Some(16 * MIB)).unwrap().disk_bytes(), Some(16 * MIB));
    }

    #[test]
    fn the_wire_form_comes_back_with_and_without_limits_that_may_be_absent() {
        for (bandwidth, disk) in [(None, None), (Some(10_000_000), None), (None, Some(64 * MIB))] {
            let limits = Limits::default().with_bandwidth(bandwidth).unwrap().with_disk(disk).unwrap();
            let text = serde_json::to_string(&limits).unwrap();
            assert_eq!(text.contains("bandwidth"), bandwidth.is_some());
            assert_eq!(text.contains("disk"), disk.is_some());
            assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
        }
    }

    #[test]
    fn the_wire_form_is_checked_too() {
        let text = r#"{"memory_bytes":1,"cpu_millis":1000,"pids":512}"#;
        assert!(serde_json::from_str::<Limits>(text).is_err());
        let text = r#"{"memory_bytes":268435456,"cpu_millis":1000,"pids":512,"bandwidth_bits_per_s":1}"#;
        assert!(serde_json::from_str::<Limits>(text).is_err());
        let text = r#"{"memory_bytes":268435456,"cpu_millis":1000,"pids":512,"disk_bytes":1}"#;
        assert!(serde_json::from_str::<Limits>(text).is_err());
        let unknown = r#"{"memory_bytes":268435456,"cpu_millis":1000,"pids":512,"gpu":1}"#;
        assert!(serde_json::from_str::<Limits>(unknown).is_err());
    }
}
