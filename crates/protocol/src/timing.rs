//! How long each side of a connection waits for the other.

use std::time::Duration;

/// The waits of one side; both sides have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For the first message of the other side.
    pub welcome_timeout: Duration,
    /// For the network to take one message.
    pub write_timeout: Duration,
    /// How often to ask whether the other side is there.
    pub ping_interval: Duration,
    /// A side that says nothing for this long, not even to a ping, is gone.
    pub silence_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            welcome_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            silence_max: Duration::from_secs(60),
        }
    }
}
