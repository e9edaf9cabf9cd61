//! `docs/protocol.md` knows every message type, how it waits, and every field.

use std::collections::BTreeSet;

use serde_json::{Value, value::RawValue};
use wisehosting_protocol::message::{AgentMessage, HubMessage, Message, Queueing};

use crate::{
    generator::Payloads,
    vectors::{self, payloads},
};

const DOCUMENT: &str = include_str!("../../../../docs/protocol.md");

fn row_of(kind: &str) -> Vec<&'static str> {
    let begin = format!("| `{kind}` | ");
    let row = DOCUMENT.lines().find(|line| line.starts_with(&begin) && line.matches('|').count() > 5);
    row.unwrap_or_else(|| panic!("docs/protocol.md: {kind} is missing")).split('|').map(str::trim).collect()
}

fn assert_policy<M: Message>(kind: &str, example: &RawValue) {
    let expected = match M::decode(kind, example).map(|message| message.queueing()).ok() {
        Some(Queueing::Kept) => "kept",
        Some(Queueing::Latest) => "latest",
        Some(Queueing::Bulk) => "bulk",
        None => panic!("{kind}: the example is not taken"),
    };
    assert_eq!(row_of(kind)[3], expected, "docs/protocol.md: how {kind} waits");
}

#[test]
fn the_document_knows_how_every_type_waits() {
    let Payloads { agent, hub } = payloads();
    for (kind, examples) in &agent {
        assert_policy::<AgentMessage>(kind, &examples[0]);
    }
    for (kind, examples) in &hub {
        assert_policy::<HubMessage>(kind, &examples[0]);
    }
}

#[test]
fn the_document_knows_every_field() {
    let Payloads { agent, hub } = payloads();
    let mut fields = BTreeSet::new();
    for example in agent.values().chain(hub.values()).flatten() {
        let example: Value = serde_json::from_str(example.get()).expect("JSON");
        for path in vectors::objects(&example) {
            let object = example.pointer(&path).and_then(Value::as_object).expect("an object");
            fields.extend(object.keys().cloned());
        }
    }
    for field in fields {
        assert!(DOCUMENT.contains(&format!("`{field}`")), "docs/protocol.md: {field} is missing");
    }
}
