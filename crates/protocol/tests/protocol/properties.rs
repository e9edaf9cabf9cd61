//! What holds for every message, every number and every change on the way: 100,000 cases of each property.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    sync::LazyLock,
};

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, value::RawValue};
use wisehosting_protocol::{
    CLOCK_SKEW_MS_MAX,
    connection::{AgentConnection, Connection, HubConnection, OpenError, START_LIMIT},
    envelope::EnvelopeError,
    key::SigningKey,
    message::{AgentMessage, HubMessage, Message},
    window::{ReplayWindow, SequenceError, WIDTH},
};

use crate::vectors::payloads;

const CASES: u32 = 100_000;
const NOW_MS: u64 = 1_790_000_000_000;

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::derive("correct horse battery staple"));
static AGENT: LazyLock<Vec<Example>> = LazyLock::new(|| examples(payloads().agent));
static HUB: LazyLock<Vec<Example>> = LazyLock::new(|| examples(payloads().hub));

struct Example {
    kind: String,
    payload: Value,
    leaves: Vec<String>,
}

fn examples(payloads: BTreeMap<String, Vec<Box<RawValue>>>) -> Vec<Example> {
    let all = payloads.into_iter().flat_map(|(kind, payloads)| {
        payloads.into_iter().map(move |payload| {
            let payload = serde_json::from_str(payload.get()).expect("JSON");
            Example { kind: kind.clone(), leaves: leaves(&payload), payload }
        })
    });
    all.collect()
}

/// Any message of a direction: an example of any of its types, with up to three other numbers, texts or identifiers where
/// the type allows them. What they become is spelled by random words.
fn message<M: Message + Debug>(examples: &'static [Example]) -> impl Strategy<Value = M> {
    (any::<Index>(), prop::collection::vec(any::<(Index, u64)>(), 0..4)).prop_map(|(index, words)| {
        let Example { kind, payload, leaves } = index.get(examples);
        let decode = |payload: &Value| M::decode(kind, &payload.to_string()).ok();
        let mut payload = payload.clone();
        let mut message = decode(&payload).expect("an example");
        for (leaf, word) in words {
            let path = leaf.get(leaves);
            let Some(other) = replacement(word) else { continue };
            let before = std::mem::replace(payload.pointer_mut(path).expect("a path of it"), other);
            match decode(&payload) {
                Some(other) => message = other,
                None => *payload.pointer_mut(path).expect("a path of it") = before,
            }
        }
        message
    })
}

/// What a word spells: nothing new, a number of any size, a text of any characters, an identifier.
fn replacement(word: u64) -> Option<Value> {
    let rest = word >> 8;
    match word % 4 {
        0 => None,
        1 => Some((word >> (word / 4 % 64)).into()),
        2 => {
            let characters = [rest % 128, rest / 128 % 256, rest >> 24].map(|n| char::from_u32(n as u32));
            Some(characters.into_iter().flatten().collect::<String>().into())
        }
        _ => Some(uuid::Uuid::from_u64_pair(word, rest).to_string().into()),
    }
}

/// The paths of all values that are neither objects nor lists.
fn leaves(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Object(fields) => {
                open.extend(fields.iter().map(|(name, field)| (format!("{path}/{name}"), field)));
            }
            Value::Array(items) => {
                open.extend(items.iter().enumerate().map(|(n, item)| (format!("{path}/{n}"), item)));
            }
            _ => found.push(path),
        }
    }
    found
}

fn agent_message() -> impl Strategy<Value = AgentMessage> {
    message(&AGENT)
}

fn hub_message() -> impl Strategy<Value = HubMessage> {
    message(&HUB)
}

fn start() -> impl Strategy<Value = u64> {
    0..START_LIMIT
}

/// Two sides that told each other where to start.
fn pair(agent_starts: u64, hub_starts: u64) -> (AgentConnection, HubConnection) {
    (
        Connection::new(KEY.clone(), agent_starts, hub_starts),
        Connection::new(KEY.clone(), hub_starts, agent_starts),
    )
}

/// The messages, sealed one after the other.
fn seal_all<Out: Message, In: Message>(
    from: &mut Connection<Out, In>,
    messages: &[Out],
    id: [u8; 16],
) -> Vec<String> {
    messages.iter().map(|message| from.seal(message, id, NOW_MS)).collect()
}

/// A change on the way: one byte becomes another, appears or disappears.
#[derive(Clone, Copy, Debug)]
enum Change {
    Replace(u8),
    Insert(u8),
    Remove,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (32..127u8).prop_map(Change::Replace),
        (32..127u8).prop_map(Change::Insert),
        Just(Change::Remove)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// What one side says the other hears, in both directions, and nothing of it twice.
    #[test]
    fn round_trip(
        up in prop::collection::vec(agent_message(), 1..3), down in hub_message(),
        starts in (start(), start()), id: [u8; 16],
    ) {
        let (mut agent, mut hub) = pair(starts.0, starts.1);
        for (text, message) in seal_all(&mut agent, &up, id).iter().zip(&up) {
            prop_assert_eq!(&hub.open(text, NOW_MS).expect("the agent's"), message);
            let again = hub.open(text, NOW_MS);
            prop_assert!(matches!(again, Err(OpenError::Sequence(SequenceError::Replayed(_)))), "{:?}", again);
        }
        prop_assert_eq!(agent.open(&hub.seal(&down, id, NOW_MS), NOW_MS).expect("the hub's"), down);
    }

    /// A changed text is refused, unless the change is white space outside of what is signed.
    #[test]
    fn a_change_is_noticed(message in agent_message(), at: Index, change in change(), starts in (start(), start())) {
        let (mut agent, mut hub) = pair(starts.0, starts.1);
        let sealed = agent.seal(&message, [7; 16], NOW_MS);
        let mut bytes = sealed.clone().into_bytes();
        let at = at.index(bytes.len());
        match change {
            Change::Replace(byte) => bytes[at] = byte,
            Change::Insert(byte) => bytes.insert(at, byte),
            Change::Remove => drop(bytes.remove(at)),
        }
        let changed = String::from_utf8_lossy(&bytes);
        prop_assume!(changed != sealed);
        match hub.open(&changed, NOW_MS) {
            Err(error) => prop_assert!(matches!(error, OpenError::Envelope(_)), "{:?}", error),
            Ok(opened) => {
                prop_assert_eq!(opened, message);
                prop_assert!(matches!(change, Change::Insert(b' ')), "{}", changed);
            }
        }
    }

    /// Another key's messages are refused, whatever else is right.
    #[test]
    fn a_stranger_is_refused(message in hub_message(), start in start(), key: u64) {
        let api_key = key.to_string();
        prop_assume!(SigningKey::derive(&api_key).as_bytes() != KEY.as_bytes());
        let mut stranger = HubConnection::new(SigningKey::derive(&api_key), start, 0);
        let refused = pair(0, start).0.open(&stranger.seal(&message, [7; 16], NOW_MS), NOW_MS);
        prop_assert!(matches!(refused, Err(OpenError::Envelope(EnvelopeError::Signature))), "{:?}", refused);
    }

    /// A message is good while the clocks differ by five minutes at most; a refused one can still come in time.
    #[test]
    fn the_clock_decides(
        message in hub_message(),
        skew in prop_oneof![0..2 * CLOCK_SKEW_MS_MAX, CLOCK_SKEW_MS_MAX - 2..CLOCK_SKEW_MS_MAX + 3, 0..NOW_MS],
        late: bool,
    ) {
        let (mut agent, mut hub) = pair(0, 0);
        let text = hub.seal(&message, [7; 16], NOW_MS);
        let now_ms = if late { NOW_MS + skew } else { NOW_MS - skew };
        match agent.open(&text, now_ms) {
            Ok(opened) => prop_assert!(skew <= CLOCK_SKEW_MS_MAX && opened == message),
            Err(OpenError::Envelope(EnvelopeError::Clock(told))) => {
                prop_assert!(skew > CLOCK_SKEW_MS_MAX && told == skew);
                prop_assert_eq!(agent.open(&text, NOW_MS).expect("in time"), message);
            }
            Err(error) => prop_assert!(false, "{:?}", error),
        }
    }

    /// The window against the obvious model: everything seen, and the newest.
    #[test]
    fn the_window_agrees_with_a_set(
        start in prop_oneof![start(), Just(0), u64::MAX - 2_000..=u64::MAX],
        steps in prop::collection::vec(prop_oneof![-3..4i64, -300..300i64, Just(i64::MIN), Just(i64::MAX)], 1..80),
    ) {
        let mut window = ReplayWindow::starting_at(start);
        let (mut seen, mut next) = (HashSet::new(), start);
        for step in steps {
            let number = next.saturating_add_signed(step);
            let is_near = number < next.saturating_add(WIDTH) && number.saturating_add(WIDTH) >= next;
            let expected = number >= start && number < u64::MAX && is_near && !seen.contains(&number);
            prop_assert_eq!(window.accept(number).is_ok(), expected, "{} of {}", number, next);
            if expected {
                seen.insert(number);
                next = next.max(number + 1);
            }
        }
    }

    /// Nothing is taken by its own author, wherever it counts.
    #[test]
    fn a_message_sent_back_is_refused(
        up in agent_message(), down in hub_message(), starts in (start(), start()),
    ) {
        prop_assume!(starts.0.abs_diff(starts.1) > WIDTH);
        let (mut agent, mut hub) = pair(starts.0, starts.1);
        let (up, down) = (agent.seal(&up, [7; 16], NOW_MS), hub.seal(&down, [7; 16], NOW_MS));
        prop_assert!(agent.open(&up, NOW_MS).is_err());
        prop_assert!(hub.open(&down, NOW_MS).is_err());
        // Not even if both sides happened to count from the same number, but for what both may say.
        let (mut agent, _) = pair(starts.0, starts.0);
        let text = agent.seal(&AgentMessage::from(wisehosting_protocol::payload::RoutesDrained { generation: 1 }), [7; 16], NOW_MS);
        prop_assert!(matches!(agent.open(&text, NOW_MS), Err(OpenError::Decode(_))));
    }

    /// What was recorded on one connection is refused on every other, which is also what a restart of either side makes.
    #[test]
    fn a_recording_is_refused_by_another_connection(
        up in prop::collection::vec(agent_message(), 1..3), down in hub_message(),
        before in (start(), start()), after in (start(), start()),
    ) {
        let is_far = |a: u64, b: u64| a.abs_diff(b) > WIDTH + 4;
        prop_assume!(is_far(before.0, after.0) && is_far(before.1, after.1));
        let (mut agent, mut hub) = pair(before.0, before.1);
        let recorded_up = seal_all(&mut agent, &up, [7; 16]);
        let recorded_down = hub.seal(&down, [7; 16], NOW_MS);

        let (mut agent, mut hub) = pair(after.0, after.1);
        for text in &recorded_up {
            let refused = hub.open(text, NOW_MS);
            prop_assert!(matches!(refused, Err(OpenError::Sequence(_))), "{:?}", refused);
        }
        let refused = agent.open(&recorded_down, NOW_MS);
        prop_assert!(matches!(refused, Err(OpenError::Sequence(_))), "{:?}", refused);
        prop_assert_eq!(hub.open(&agent.seal(&up[0], [7; 16], NOW_MS), NOW_MS).expect("this connection's"), up[0].clone());
    }

    /// Whatever arrives, opening it ends in a value, which is nothing but what was sealed.
    #[test]
    fn any_text_is_survived(bytes: [u8; 24], length in 0..=24usize, cut: Index, message in agent_message()) {
        let text = String::from_utf8_lossy(&bytes[..length]);
        prop_assert!(pair(1, 1).1.open(&text, NOW_MS).is_err());
        let sealed = pair(1, 1).0.seal(&message, [7; 16], NOW_MS);
        let at = sealed.floor_char_boundary(cut.index(sealed.len()));
        // By chance the text may be just what was cut off.
        if let Ok(opened) = pair(1, 1).1.open(&(sealed[..at].to_owned() + &text), NOW_MS) {
            prop_assert_eq!(opened, message);
        }
    }
}
