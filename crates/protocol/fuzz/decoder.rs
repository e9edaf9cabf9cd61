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
    if let Ok(envelope) = serde_json::from_str::<Envelope<'_>>(text) {
        can_be_repeated::<AgentMessage>(&key, &envelope);
        can_be_repeated::<HubMessage>(&key, &envelope);
    }
}

fn can_be_repeated<M: Message + PartialEq + std::fmt::Debug>(key: &SigningKey, envelope: &Envelope<'_>) {
    let Ok(message) = M::decode(envelope.t, envelope.p) else { return };
    let text = envelope::seal(key, message.kind(), [7; 16], envelope.s, NOW_MS, &message);
    let opened = envelope::open(key, &text, NOW_MS).expect("it was just sealed");
    assert_eq!(M::decode(opened.t, opened.p).expect("it was just written"), message);
}
