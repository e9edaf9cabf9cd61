//! The golden vectors are what this implementation says and hears, and there is one for every message type.

use std::{fs, path::Path};

use serde_json::{Value, value::to_raw_value};
use wisehosting_protocol::message::{AgentMessage, DecodeError, HubMessage, Message};

use crate::{
    decoder,
    generator::{self, Payloads},
};

/// Objects whose keys are data.
const MAPS: [&str; 2] = ["environment", "routes"];

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn payloads() -> Payloads {
    serde_json::from_str(&read(generator::PAYLOADS)).expect("payloads by direction and type")
}

#[test]
fn the_vectors_are_up_to_date() {
    for (path, expected) in generator::files(&read(generator::PAYLOADS)).expect("every payload is taken") {
        let is_same = read(&path) == expected;
        assert!(
            is_same,
            "{}: the protocol has changed. If that is meant, and VERSION says so: \
             cargo run -p wisehosting-protocol --example vectors",
            path.display()
        );
    }
}

#[test]
fn every_type_has_examples() {
    let Payloads { agent, hub } = payloads();
    for (kinds, examples) in [(AgentMessage::KINDS, agent), (HubMessage::KINDS, hub)] {
        for kind in kinds {
            let known = examples.get(*kind).is_some_and(|examples| !examples.is_empty());
            assert!(known, "{}: add an example of the payload of {kind}", generator::PAYLOADS);
        }
    }
}

#[test]
fn an_unknown_field_is_refused_wherever_it_is() {
    let Payloads { agent, hub } = payloads();
    for (kind, example) in agent.iter().flat_map(|(kind, all)| all.iter().map(move |one| (kind, one))) {
        refuses_more_fields::<AgentMessage>(kind, example.get());
    }
    for (kind, example) in hub.iter().flat_map(|(kind, all)| all.iter().map(move |one| (kind, one))) {
        refuses_more_fields::<HubMessage>(kind, example.get());
    }
}

fn refuses_more_fields<M: Message + std::fmt::Debug>(kind: &str, example: &str) {
    let example: Value = serde_json::from_str(example).expect("JSON");
    for path in objects(&example) {
        let mut changed = example.clone();
        let object = changed.pointer_mut(&path).and_then(Value::as_object_mut).expect("an object");
        object.insert("extra".to_owned(), Value::Null);
        let refused = M::decode(kind, &to_raw_value(&changed).expect("JSON"));
        assert!(matches!(refused, Err(DecodeError::Payload { .. })), "{kind} at {path:?}: {refused:?}");
    }
}

/// The paths of all objects in a value whose fields are given.
pub(crate) fn objects(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Object(fields) => {
                if !MAPS.iter().any(|map| path.ends_with(&format!("/{map}"))) {
                    found.push(path.clone());
                }
                open.extend(fields.iter().map(|(name, field)| (format!("{path}/{name}"), field)));
            }
            Value::Array(items) => {
                open.extend(items.iter().enumerate().map(|(n, item)| (format!("{path}/{n}"), item)));
            }
            _ => {}
        }
    }
    found
}

#[test]
fn the_fuzzers_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(generator::CORPUS);
    for entry in fs::read_dir(folder).expect("the corpus") {
        let text = fs::read(entry.expect("a file").path()).expect("readable");
        decoder::survives(&String::from_utf8_lossy(&text));
    }
}
