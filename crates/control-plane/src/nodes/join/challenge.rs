//! Challenges: made for everybody, and remembered by nobody.
//!
//! A challenge says when it was made, and is signed with a key of the control plane's: so a flood of requests for them fills nothing. That one is
//! met only once follows from its time, which the token's row keeps.

use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use secrecy::{ExposeSecret as _, SecretString};
use time::{Duration, OffsetDateTime};
use wisehosting_node::random;

/// For how long one can be met.
const LIFETIME: Duration = Duration::minutes(1);
/// Nothing else that is signed with this key begins so.
const LABEL: &[u8] = b"wisehosting join challenge, version 1";
const TIME_LEN: usize = 8;
const NONCE_LEN: usize = 16;

/// A new one.
pub(super) fn make(secret: &SecretString, now: OffsetDateTime) -> Vec<u8> {
    let made_at_us = i64::try_from(now.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
    let mut challenge = made_at_us.to_be_bytes().to_vec();
    challenge.extend(random::bytes::<NONCE_LEN>());
    let signature = sign(&key(secret), &signed(&challenge));
    challenge.extend(signature.as_ref());
    challenge
}

/// When a challenge was made, if it is ours and good now.
pub(super) fn made_at(
    secret: &SecretString,
    challenge: &[u8],
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let (content, signature) = challenge.split_at_checked(TIME_LEN + NONCE_LEN)?;
    verify(&key(secret), &signed(content), signature).ok()?;
    let made_at_us = i64::from_be_bytes(content.first_chunk().copied()?);
    let made_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(made_at_us) * 1_000).ok()?;
    (made_at <= now && now - made_at < LIFETIME).then_some(made_at)
}

fn key(secret: &SecretString) -> Key {
    Key::new(HMAC_SHA256, secret.expose_secret().as_bytes())
}

fn signed(content: &[u8]) -> Vec<u8> {
    [LABEL, content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_good_for_a_minute_where_it_was_made() {
        let (secret, other) = (SecretString::from("ours"), SecretString::from("other"));
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000) + Duration::microseconds(7);
        let challenge = make(&secret, now);
        assert_eq!(made_at(&secret, &challenge, now), Some(now));
        assert_eq!(made_at(&secret, &challenge, now + LIFETIME - Duration::SECOND), Some(now));
        assert_eq!(made_at(&secret, &challenge, now + LIFETIME), None, "over");
        assert_eq!(made_at(&secret, &challenge, now - Duration::SECOND), None, "of the future");
        assert_eq!(made_at(&other, &challenge, now), None, "somebody else's");
        assert_ne!(make(&secret, now), challenge);
        for at in 0..challenge.len() {
            let mut changed = challenge.clone();
            changed[at] ^= 1;
            assert_eq!(made_at(&secret, &changed, now), None, "byte {at}");
        }
        for len in [0, 7, 24, challenge.len() - 1] {
            assert_eq!(made_at(&secret, &challenge[..len], now), None, "{len} bytes");
        }
    }
}
