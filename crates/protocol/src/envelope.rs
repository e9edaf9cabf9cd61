//! The envelope: six short fields around a payload, and the HMAC that covers five of them.
//!
//! The payload is signed and checked as the very bytes that travel, so no two JSON writers have to agree on anything.

use crate::{CLOCK_SKEW_MS_MAX, MESSAGE_BYTES_MAX, key::SigningKey};
use hmac::Mac;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const ID_BYTES: usize = 16;
const TAG_BYTES: usize = 32;
/// Most messages are shorter.
const USUAL_BYTES: usize = 512;

/// One message on the wire, borrowed from the text that it came in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
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
    #[serde(borrow)]
    pub p: &'a RawValue,
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
    let mac = signed(key, [kind, &id, &s, &ts], &text[payload_at..]);
    let mut tag = [0; 2 * TAG_BYTES];
    hex::encode_to_slice(mac.finalize().into_bytes(), &mut tag).expect("two digits a byte");
    for part in [br#","h":""#.as_slice(), &tag, br#""}"#] {
        text.extend_from_slice(part);
    }
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Reads an envelope and checks its size, signature and time; the sequence number is the caller's to check.
///
/// # Errors
/// What is wrong with it.
pub fn open<'a>(key: &SigningKey, text: &'a str, now_ms: u64) -> Result<Envelope<'a>, EnvelopeError> {
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(EnvelopeError::TooLarge(text.len()));
    }
    let envelope: Envelope<'a> = serde_json::from_str(text).map_err(EnvelopeError::Malformed)?;
    if !is_hex(envelope.i, ID_BYTES) {
        return Err(EnvelopeError::Id);
    }
    let mut tag = [0; TAG_BYTES];
    if !is_hex(envelope.h, TAG_BYTES) || hex::decode_to_slice(envelope.h, &mut tag).is_err() {
        return Err(EnvelopeError::Signature);
    }
    let (s, ts) = (envelope.s.to_string(), envelope.ts.to_string());
    signed(key, [envelope.t, envelope.i, &s, &ts], envelope.p.get().as_bytes())
        .verify_slice(&tag)
        .map_err(|_| EnvelopeError::Signature)?;
    let skew = envelope.ts.abs_diff(now_ms);
    if skew > CLOCK_SKEW_MS_MAX { Err(EnvelopeError::Clock(skew)) } else { Ok(envelope) }
}

/// Whether the text is so many bytes in hexadecimal, in the one way of writing them.
fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The HMAC of `t|i|s|ts|p`, not yet finished.
fn signed(key: &SigningKey, head: [&str; 4], payload: &[u8]) -> impl Mac {
    let mut mac = key.mac();
    for part in head {
        mac.update(part.as_bytes());
        mac.update(b"|");
    }
    mac.update(payload);
    mac
}
