//! The envelope: six short fields around a payload, and the HMAC that covers five of them.
//!
//! The payload is signed and checked as the very bytes that travel, so no two JSON writers have to agree on anything.

use crate::{CLOCK_SKEW_MS_MAX, MESSAGE_BYTES_MAX, key::SigningKey};
use hmac::Mac;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use subtle::ConstantTimeEq;

const ID_BYTES: usize = 16;
const TAG_BYTES: usize = 32;
/// Most messages are shorter.
const USUAL_BYTES: usize = 512;

/// One message on the wire, borrowed from the text that it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Message type.
    pub t: &'a str,
    /// Random identifier: 16 bytes in hexadecimal, lower case.
    pub i: &'a str,
    /// Sequence number, counted per direction and connection.
    pub s: u64,
    /// Time of sending: milliseconds since the Unix epoch.
    pub ts: u64,
    /// Payload: the JSON text exactly as sent.
    pub p: &'a str,
    /// HMAC-SHA256 over `t|i|s|ts|p` in hexadecimal, lower case.
    pub h: &'a str,
}

/// Why an envelope is refused. None of these repeats its content.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Over [`MESSAGE_BYTES_MAX`].
    #[error("an envelope of {0} bytes is too large")]
    TooLarge(usize),
    /// Not an envelope.
    #[error("not an envelope")]
    Malformed(#[source] serde_json::Error),
    /// The identifier is not 32 hexadecimal digits in lower case.
    #[error("the identifier of an envelope is malformed")]
    Id,
    /// The HMAC is not the key's.
    #[error("the signature is wrong")]
    Signature,
    /// Sent too long ago, or in the future.
    #[error("the clocks differ by {0} ms: check the time of both hosts")]
    Clock(u64),
}

/// Writes and signs an envelope around a payload. `kind` is a message type: no text that JSON would have to escape.
///
/// # Panics
/// The payload cannot be written as JSON.
#[must_use]
pub fn seal(
    key: &SigningKey,
    kind: &str,
    id: [u8; ID_BYTES],
    sequence: u64,
    now_ms: u64,
    payload: &impl Serialize,
) -> String {
    let (id, s, ts) = (hex::encode(id), sequence.to_string(), now_ms.to_string());
    let mut text = Vec::with_capacity(USUAL_BYTES);
    let head = [r#"{"t":""#, kind, r#"","i":""#, &id, r#"","s":"#, &s, r#","ts":"#, &ts, r#","p":"#];
    for part in head {
        text.extend_from_slice(part.as_bytes());
    }
    let payload_at = text.len();
    serde_json::to_writer(&mut text, payload).expect("payloads have text keys and finite numbers only");
    let tag = tag(key, [kind, &id, &s, &ts], &text[payload_at..]);
    for part in [br#","h":""#.as_slice(), &tag, br#""}"#] {
        text.extend_from_slice(part);
    }
    String::from_utf8(text).expect("JSON is UTF-8")
}

impl<'a> Envelope<'a> {
    /// Reads an envelope; nothing of it is vouched for yet.
    ///
    /// # Errors
    /// It is too large, or not one.
    pub fn read(text: &'a str) -> Result<Self, EnvelopeError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields<'a> {
            t: &'a str,
            i: &'a str,
            s: u64,
            ts: u64,
            #[serde(borrow)]
            p: &'a RawValue,
            h: &'a str,
        }
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge(text.len()));
        }
        let Fields { t, i, s, ts, p, h } = object(text).map_err(EnvelopeError::Malformed)?;
        if i.len() == 2 * ID_BYTES && is_hex(i) {
            Ok(Self { t, i, s, ts, p: p.get(), h })
        } else {
            Err(EnvelopeError::Id)
        }
    }

    /// Reads an envelope that is written as [`seal`] writes it, without a look at the payload: what is read is an envelope
    /// if the payload is one of an object's type. None if it is written in another way, or not one.
    #[must_use]
    pub fn read_plain(text: &'a str) -> Option<Self> {
        if text.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let (t, rest) = text.strip_prefix(r#"{"t":""#)?.split_once('"')?;
        let (i, rest) = rest.strip_prefix(r#","i":""#)?.split_at_checked(2 * ID_BYTES)?;
        let (s, rest) = number(rest.strip_prefix(r#"","s":"#)?)?;
        let (ts, rest) = number(rest.strip_prefix(r#","ts":"#)?)?;
        let rest = rest.strip_prefix(r#","p":"#)?.strip_suffix(r#""}"#)?;
        let (rest, h) = rest.split_at_checked(rest.len().checked_sub(2 * TAG_BYTES)?)?;
        let p = rest.strip_suffix(r#","h":""#)?;
        let is_plain = t.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            && is_hex(i)
            && is_hex(h)
            && p.starts_with('{')
            && p.ends_with('}');
        is_plain.then_some(Self { t, i, s, ts, p, h })
    }

    /// Checks signature and time; the sequence number is the caller's to check.
    ///
    /// # Errors
    /// Which of them is wrong.
    pub fn verify(&self, key: &SigningKey, now_ms: u64) -> Result<(), EnvelopeError> {
        let (s, ts) = (self.s.to_string(), self.ts.to_string());
        let tag = tag(key, [self.t, self.i, &s, &ts], self.p.as_bytes());
        if !bool::from(tag.as_slice().ct_eq(self.h.as_bytes())) {
            return Err(EnvelopeError::Signature);
        }
        let skew = self.ts.abs_diff(now_ms);
        if skew > CLOCK_SKEW_MS_MAX { Err(EnvelopeError::Clock(skew)) } else { Ok(()) }
    }
}

/// Reads an object. The library alone would take a list of its values, too.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, serde_json::Error> {
    if text.trim_start().starts_with('[') {
        return Err(serde::de::Error::custom("a list instead of an object"));
    }
    serde_json::from_str(text)
}

/// The number that a text begins with, as JSON writes it, and what follows.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(digits);
    let is_plain = digits == "0" || !digits.starts_with('0');
    is_plain.then(|| digits.parse().ok()).flatten().map(|number| (number, rest))
}

/// Whether the text is hexadecimal, in the one way of writing it.
fn is_hex(text: &str) -> bool {
    let is_digit = |b| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    text.bytes().fold(true, |all, b| all & is_digit(b))
}

/// The HMAC of `t|i|s|ts|p` in hexadecimal, lower case.
fn tag(key: &SigningKey, head: [&str; 4], payload: &[u8]) -> [u8; 2 * TAG_BYTES] {
    let mut mac = key.mac();
    for part in head {
        mac.update(part.as_bytes());
        mac.update(b"|");
    }
    mac.update(payload);
    let mut tag = [0; 2 * TAG_BYTES];
    hex::encode_to_slice(mac.finalize().into_bytes(), &mut tag).expect("two digits a byte");
    tag
}
