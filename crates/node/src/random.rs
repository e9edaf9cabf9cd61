//! The one place where a program draws random numbers: from the operating system's generator.

#[cfg(feature = "simulation")]
pub mod simulated;

use rand::{TryRngCore, rngs::OsRng};
use uuid::Uuid;
use wisehosting_protocol::connection::START_LIMIT;

/// Random bytes, fit for secrets and identifiers.
///
/// # Panics
/// The operating system has no random numbers: nothing safe can be done without them.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(feature = "simulation")]
    if simulated::fill(&mut bytes) {
        return bytes;
    }
    OsRng.try_fill_bytes(&mut bytes).expect("the operating system gives random numbers");
    bytes
}

/// A random (version 4) UUID.
#[must_use]
pub fn uuid() -> Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}

/// Where the other side of a new connection must start to count.
#[must_use]
pub fn sequence_start() -> u64 {
    u64::from_le_bytes(bytes()) % START_LIMIT
}

/// A random number from 0 up to 1, for jitter.
#[must_use]
pub fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / (f64::from(u32::MAX) + 1.0)
}
