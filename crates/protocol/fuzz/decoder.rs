//! What must hold for every text that arrives, whoever sent it. Run by the fuzzer, and on its corpus by the tests.

use wisehosting_protocol::{
    connection::{AgentConnection, HubConnection},
    envelope::{self, Envelope},
    key::SigningKey,
    message::{AgentMessage, HubMessage, Message},
};

const NOW_MS: u64 = 1_790_000_000_000;
const START: u64 = 1_000;

/// Opening the text ends in a value; and if it is an envelope whose payload is taken, signed or not, then what was
/// understood can be said again and is understood alike.
pub(crate) fn survives(text: &str) {
    let key = SigningKey::derive("correct horse battery staple");
    let _ = HubConnection::new(key.clone(), START, START).open(text, NOW_MS);
    let _ = AgentConnection::new(key.clone(), START, START).open(text, NOW_MS);
    let envelope = Envelope::read(text).ok();
    if let Some(plain) = Envelope::read_plain(text)
        && (AgentMessage::decode(plain.t, plain.p).is_ok() || HubMessage::decode(plain.t, plain.p).is_ok())
    {
        assert_eq!(envelope.as_ref(), Some(&plain), "the short way takes nothing else");
    }
    if let Some(envelope) = envelope {
        can_be_repeated::<AgentMessage>(&key, &envelope);
        can_be_repeated::<HubMessage>(&key, &envelope);
    }
}

fn can_be_repeated<M: Message + PartialEq + std::fmt::Debug>(key: &SigningKey, envelope: &Envelope<'_>) {
    let Ok(message) = M::decode(envelope.t, envelope.p) else { return };
    let text = envelope::seal(key, message.kind(), [7; 16], envelope.s, NOW_MS, &message);
    let opened = Envelope::read_plain(&text).expect("it is as envelopes are written");
    opened.verify(key, NOW_MS).expect("it was just sealed");
    assert_eq!(M::decode(opened.t, opened.p).expect("it was just written"), message);
}
