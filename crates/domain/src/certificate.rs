//! What edges share to get certificates: a challenge, and how long nobody asks again for a name that was refused.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A certificate is renewed when this part of its time is left: a third.
pub const RENEW_AT: i32 = 3;
const FIRST_RETRY: Duration = Duration::from_secs(60);
const RETRY_FACTOR: u32 = 4;
const RETRY_MAX: Duration = Duration::from_hours(24);

/// What a certificate authority wants to see. It is for everybody's eyes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Where it looks.
    pub kind: ChallengeKind,
    /// Its name for the challenge.
    pub token: String,
    /// The token, a full stop, and the thumbprint of the account's key (RFC 8555, section 8.1).
    pub key_authorization: String,
}

/// Where a certificate authority looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChallengeKind {
    /// At a file on port 80.
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    /// At a certificate on port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// How long nobody orders for a name after so many failures in a row, one at least: a minute after the first, four times as
/// long after each further one, a day at most.
#[must_use]
pub fn retry_after(failures: u32) -> Duration {
    let factor = RETRY_FACTOR.saturating_pow(failures.saturating_sub(1));
    FIRST_RETRY.saturating_mul(factor).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_name_is_asked_for_less_and_less_often() {
        let waits: Vec<_> = (1..9).map(|failures| retry_after(failures).as_secs()).collect();
        assert_eq!(waits, [60, 240, 960, 3840, 15_360, 61_440, 86_400, 86_400]);
        assert_eq!(retry_after(u32::MAX), RETRY_MAX);
    }
}
