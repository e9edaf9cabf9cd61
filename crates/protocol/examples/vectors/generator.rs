//! The golden vectors as they should be: what is sealed from `vectors/payloads.json`, what its payloads are made of, and
//! what becomes of a row of texts.

use std::{collections::BTreeMap, error::Error, path::PathBuf};

use crate::shapes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wisehosting_protocol::{
    CLOCK_SKEW_MS_MAX,
    connection::{Connection, OpenError},
    envelope::{self, Envelope, EnvelopeError},
    key::SigningKey,
    message::{AgentMessage, DecodeError, HubMessage, Message},
    window::{SequenceError, WIDTH},
};

pub(crate) const PAYLOADS: &str = "vectors/payloads.json";
pub(crate) const SHAPES: &str = "vectors/shapes.json";
pub(crate) const CORPUS: &str = "fuzz/corpus/decoder";
pub(crate) const CORPUS_EXTENSION: &str = "json";

const API_KEY: &str = "correct horse battery staple";
const NOW_MS: u64 = 1_790_000_000_000;
const START: u64 = 1_000;

/// Every type's examples, by direction and type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payloads {
    pub(crate) agent: BTreeMap<String, Vec<Box<RawValue>>>,
    pub(crate) hub: BTreeMap<String, Vec<Box<RawValue>>>,
}

#[derive(Serialize)]
struct Messages {
    api_key: &'static str,
    key: String,
    messages: Vec<Sealed>,
}

/// One message on the wire.
#[derive(Serialize)]
struct Sealed {
    from: &'static str,
    #[serde(skip)]
    kind: String,
    /// Which of its type's examples it is.
    #[serde(skip)]
    n: usize,
    /// The bytes that the HMAC covers.
    signed: String,
    envelope: String,
}

/// What a receiver makes of one text after the other.
#[derive(Serialize)]
struct Scenario {
    name: &'static str,
    receiver: &'static str,
    accept_start: u64,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    now_ms: u64,
    text: String,
    outcome: &'static str,
}

/// Every generated file and its content, by its path in the crate.
pub(crate) fn files(payloads: &str) -> Result<BTreeMap<PathBuf, String>, Box<dyn Error>> {
    let payloads: Payloads = serde_json::from_str(payloads)?;
    let mut messages = seal_all::<AgentMessage>("agent", &payloads.agent)?;
    messages.extend(seal_all::<HubMessage>("hub", &payloads.hub)?);
    let mut files = BTreeMap::new();
    for Sealed { from, kind, n, envelope, .. } in &messages {
        files.insert(format!("{CORPUS}/{from}-{kind}-{n}.{CORPUS_EXTENSION}").into(), envelope.clone());
    }
    let key = hex::encode(key().as_bytes());
    files.insert("vectors/messages.json".into(), pretty(&Messages { api_key: API_KEY, key, messages })?);
    files.insert("vectors/connections.json".into(), pretty(&scenarios())?);
    files.insert(SHAPES.into(), pretty(&shapes::shapes(&payloads))?);
    files.insert("vectors/changes.json".into(), lines(&shapes::changes(&payloads))?);
    Ok(files)
}

/// A list with a line for each item.
fn lines(items: &[impl Serialize]) -> serde_json::Result<String> {
    let items = items.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[\n{}\n]\n", items.join(",\n")))
}

fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn key() -> SigningKey {
    SigningKey::derive(API_KEY)
}

fn seal_all<M: Message>(
    from: &'static str,
    payloads: &BTreeMap<String, Vec<Box<RawValue>>>,
) -> Result<Vec<Sealed>, Box<dyn Error>> {
    let mut sealed = Vec::new();
    for (kind, examples) in payloads {
        for (n, payload) in examples.iter().enumerate() {
            let message = M::decode(kind, payload.get())?;
            let payload = serde_json::to_string(&message)?;
            let (id, sequence, ts) = ([n as u8; 16], START + n as u64, NOW_MS + n as u64);
            sealed.push(Sealed {
                from,
                kind: kind.clone(),
                n,
                signed: format!("{kind}|{}|{sequence}|{ts}|{payload}", hex::encode(id)),
                envelope: envelope::seal(&key(), kind, id, sequence, ts, &message),
            });
        }
    }
    Ok(sealed)
}

/// A `routes_drained` of an agent with this number.
fn numbered(sequence: u64) -> String {
    sealed("routes_drained", sequence, r#"{"generation":4}"#)
}

fn sealed(kind: &str, sequence: u64, payload: &str) -> String {
    let payload = RawValue::from_string(payload.to_owned()).expect("JSON");
    envelope::seal(&key(), kind, [7; 16], sequence, NOW_MS, &payload)
}

fn scenarios() -> Vec<Scenario> {
    let in_time = |texts: Vec<String>| texts.into_iter().map(|text| (NOW_MS, text)).collect::<Vec<_>>();
    let newest = START + 2 + WIDTH;
    let numbers = [
        START - 1,
        START,
        START,
        START + 2,
        START + 1,
        START + 1,
        newest,
        START + 2,
        START + 3,
        newest + WIDTH + 1,
        newest + WIDTH,
        newest,
    ];
    let drained = numbered(START);
    vec![
        heard_by_hub("each number is taken once and near the newest", in_time(numbers.map(numbered).into())),
        heard_by_hub(
            "a message that was recorded on another connection",
            in_time(vec![numbered(START + 5_000_000), numbered(4), drained.clone()]),
        ),
        heard_by::<AgentMessage, HubMessage>(
            "agent",
            "a message that is sent back to its author",
            in_time(vec![drained.clone(), sealed("error", START + 70_000, r#"{"message":"x"}"#)]),
        ),
        heard_by_hub(
            "a message that is too old or of the future, and one that is just not; a refused one does not count",
            vec![
                (NOW_MS + CLOCK_SKEW_MS_MAX + 1, drained.clone()),
                (NOW_MS - CLOCK_SKEW_MS_MAX - 1, drained.clone()),
                (NOW_MS + CLOCK_SKEW_MS_MAX, drained.clone()),
                (NOW_MS - CLOCK_SKEW_MS_MAX, numbered(START + 1)),
            ],
        ),
        heard_by_hub("a message that was changed on the way", in_time(changed(&drained))),
        heard_by_hub("what is no envelope", in_time(malformed(&drained))),
        heard_by_hub("a signed message of an unknown type", in_time(vec![sealed("reboot", START, "{}")])),
        heard_by_hub(
            "a signed message with an unknown field",
            in_time(vec![sealed("routes_drained", START, r#"{"generation":4,"extra":1}"#)]),
        ),
        heard_by_hub(
            "a signed message with a list of its values",
            in_time(vec![sealed("routes_drained", START, "[4]")]),
        ),
        heard_by_hub(
            "a signed message without a field",
            in_time(vec![sealed("routes_drained", START, "{}")]),
        ),
        heard_by_hub(
            "a signed message with white space in its payload, which is signed as it travels",
            in_time(vec![sealed("routes_drained", START, "{ \"generation\" : 4 }"), drained]),
        ),
    ]
}

fn changed(text: &str) -> Vec<String> {
    let tag = text.rsplit('"').nth(1).expect("an envelope");
    [
        (r#"{"generation":4}"#, r#"{"generation":5}"#),
        (r#"{"generation":4}"#, r#"{"generation": 4}"#),
        ("routes_drained", "routes_ack"),
        ("070707", "070708"),
        (r#""s":1000"#, r#""s":1001"#),
        (r#""ts":1790000000000"#, r#""ts":1790000000001"#),
        (tag, &tag.to_uppercase()),
        (tag, &tag[2..]),
    ]
    .map(|(from, to)| text.replacen(from, to, 1))
    .into()
}

fn malformed(text: &str) -> Vec<String> {
    let mut texts = ["", "{}", "null", "[]", "{\"t\":"].map(str::to_owned).to_vec();
    texts.push(text.replacen('{', r#"{"extra":1,"#, 1));
    texts.push(text.replacen('{', r#"{"t":"error","#, 1));
    texts.push(text.replacen(r#""s":1000"#, r#""s":-1"#, 1));
    texts.push(text.replacen(r#""s":1000"#, r#""s":"1000""#, 1));
    texts.push(text.replacen("070707", "07070707", 1));
    let Envelope { t, i, s, ts, p, h } = Envelope::read(text).expect("it is one");
    texts.push(format!(r#"["{t}","{i}",{s},{ts},{p},"{h}"]"#));
    texts.push(format!("{text}{text}"));
    texts
}

fn heard_by_hub(name: &'static str, texts: Vec<(u64, String)>) -> Scenario {
    heard_by::<HubMessage, AgentMessage>("hub", name, texts)
}

fn heard_by<Out: Message, In: Message>(
    receiver: &'static str,
    name: &'static str,
    texts: Vec<(u64, String)>,
) -> Scenario {
    let mut connection = Connection::<Out, In>::new(key(), 0, START);
    let steps = texts.into_iter().map(|(now_ms, text)| {
        let outcome = connection.open(&text, now_ms).map_or_else(|error| refusal(&error), |_| "accepted");
        Step { now_ms, text, outcome }
    });
    Scenario { name, receiver, accept_start: START, steps: steps.collect() }
}

fn refusal(error: &OpenError) -> &'static str {
    match error {
        OpenError::Envelope(EnvelopeError::TooLarge(_)) => "too_large",
        OpenError::Envelope(EnvelopeError::Malformed(_) | EnvelopeError::Id) => "malformed",
        OpenError::Envelope(EnvelopeError::Signature) => "signature",
        OpenError::Envelope(EnvelopeError::Clock(_)) => "clock",
        OpenError::Sequence(SequenceError::Replayed(_)) => "replayed",
        OpenError::Sequence(SequenceError::TooOld(_)) => "too_old",
        OpenError::Sequence(SequenceError::TooFarAhead(_)) => "too_far_ahead",
        OpenError::Decode(DecodeError::UnknownType(_)) => "unknown_type",
        OpenError::Decode(DecodeError::Payload { .. }) => "payload",
    }
}
