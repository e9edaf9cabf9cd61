//! What the signed channel costs a message, beside what it cannot do without: the same JSON, written or read once by the
//! same library, and one HMAC over as many bytes.
//!
//! `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench protocol -- [rounds]`.

use std::{hint::black_box, time::Instant};

use anyhow::Context as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::Sha256;
use wisehosting_bench::{report::Report, sample::Samples};
use wisehosting_protocol::{
    connection::Connection,
    key::SigningKey,
    message::{AgentMessage, HubMessage, Message},
    payload::{Heartbeat, Job, Routes, RuntimeLog},
};

const NOW_MS: u64 = 1_790_000_000_000;
const ID: [u8; 16] = [7; 16];
/// Bytes that each side of a round works on.
const ROUND_BYTES: usize = 2 << 20;
/// Longest that a message may take, as a multiple of JSON and HMAC alone.
const GOAL: f64 = 1.5;

/// The envelope as the bare side reads and writes it: in one go, its payload's type known beforehand.
#[derive(Serialize, Deserialize)]
struct Bare<'a, P> {
    t: &'a str,
    i: &'a str,
    s: u64,
    ts: u64,
    p: P,
    h: &'a str,
}

/// What one kind of message cost in each round, in nanoseconds.
#[derive(Default)]
struct Costs {
    seal: Samples,
    bare_seal: Samples,
    open: Samples,
    bare_open: Samples,
}

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(100);
    let mut report =
        Report::new(&format!("protocol: a message beside its JSON and HMAC alone, {rounds} rounds"));
    measure::<AgentMessage, Heartbeat>(&mut report, rounds, example("agent", "heartbeat")?)?;
    measure::<HubMessage, Job>(&mut report, rounds, example("hub", "job")?)?;
    measure::<AgentMessage, RuntimeLog>(&mut report, rounds, log_lines(100)?)?;
    measure::<HubMessage, Routes>(&mut report, rounds, routes(100)?)?;
    print!("{report}");
    Ok(())
}

fn measure<M, P>(report: &mut Report, rounds: usize, payload: Value) -> anyhow::Result<()>
where
    M: Message + From<P>,
    P: Serialize + DeserializeOwned + Clone,
{
    let payload: P = serde_json::from_value(payload).context("read an example")?;
    let message = M::from(payload.clone());
    let mut costs = Costs::default();
    let mut bytes = 0;
    for _ in 0..rounds {
        bytes = round::<M, P>(&mut costs, &message, &payload)?;
    }
    let name = format!("{} of {bytes} bytes", message.kind());
    for (what, ours, bare) in [
        ("build and sign", &costs.seal, &costs.bare_seal),
        ("verify and decode", &costs.open, &costs.bare_open),
    ] {
        let ratio = ours.median_ratio(bare);
        let figure = format!("{ratio:.2} ({:.1} µs)", ours.median() / 1_000.0);
        report.goal(format!("{name}: {what}"), figure, &format!("<= {GOAL}"), ratio <= GOAL);
    }
    Ok(())
}

/// Seals and opens many messages on both sides, in turns; says how long one is.
fn round<M, P>(costs: &mut Costs, message: &M, payload: &P) -> anyhow::Result<usize>
where
    M: Message,
    P: Serialize + DeserializeOwned,
{
    let key = SigningKey::derive("a key");
    let mut sender = Connection::<M, M>::new(key.clone(), 1_000, 0);
    let mut receiver = Connection::<M, M>::new(key.clone(), 0, 1_000);
    let bytes = Connection::<M, M>::new(key.clone(), 1_000, 0).seal(message, ID, NOW_MS).len();
    let count = ROUND_BYTES / bytes;
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).context("make an HMAC")?;
    let mut texts = Vec::with_capacity(count);

    costs.seal.push(nanoseconds_each(count, || {
        texts.push(sender.seal(message, ID, NOW_MS));
        Ok(())
    })?);
    costs.bare_seal.push(nanoseconds_each(count, || {
        let tag = hex::encode(sign(&mac, &texts[0]));
        let envelope = Bare { t: message.kind(), i: &tag[..32], s: 1, ts: NOW_MS, p: payload, h: &tag };
        black_box(serde_json::to_string(&envelope)?);
        Ok(())
    })?);
    let mut waiting = texts.iter();
    costs.open.push(nanoseconds_each(count, || {
        let text = waiting.next().context("as many as were sealed")?;
        black_box(receiver.open(text, NOW_MS)?);
        Ok(())
    })?);
    let mut waiting = texts.iter();
    costs.bare_open.push(nanoseconds_each(count, || {
        let text = waiting.next().context("as many as were sealed")?;
        let envelope: Bare<'_, P> = serde_json::from_str(text)?;
        black_box((sign(&mac, text), envelope));
        Ok(())
    })?);
    Ok(bytes)
}

/// One HMAC over what of an envelope is signed, as far as its length goes.
fn sign(mac: &Hmac<Sha256>, text: &str) -> [u8; 32] {
    // The HMAC itself, and the names and signs around the fields, are not signed.
    const UNSIGNED_BYTES: usize = 100;
    let mut mac = mac.clone();
    mac.update(black_box(&text.as_bytes()[..text.len() - UNSIGNED_BYTES]));
    mac.finalize().into_bytes().into()
}

fn nanoseconds_each(count: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    for _ in 0..count {
        work()?;
    }
    Ok(begin.elapsed().as_nanos() as f64 / count as f64)
}

/// The first of the golden vectors' examples of a type, which is one with all fields.
fn example(from: &str, kind: &str) -> anyhow::Result<Value> {
    let examples: Value = serde_json::from_str(include_str!("../../protocol/vectors/payloads.json"))?;
    examples[from][kind].get(0).cloned().with_context(|| format!("an example of {kind}"))
}

fn log_lines(count: usize) -> anyhow::Result<Value> {
    let mut log = example("agent", "runtime_log")?;
    let mut line = log["lines"][0].clone();
    line["text"] = "GET /posts/2026/a-title-of-some-length 200 12 ms \"Mozilla/5.0\"".into();
    log["lines"] = vec![line; count].into();
    Ok(log)
}

fn routes(hosts: usize) -> anyhow::Result<Value> {
    let mut routes = example("hub", "routes")?;
    let known = routes["table"]["routes"].as_object().context("routes")?;
    let route = known.values().next().context("a route")?;
    routes["table"]["routes"] =
        (0..hosts).map(|n| (format!("app-{n:03}.example.org"), route.clone())).collect();
    Ok(routes)
}
