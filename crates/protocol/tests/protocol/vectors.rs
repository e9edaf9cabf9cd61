//! The golden vectors are what this implementation says and hears, and there is one for every message type.

use std::{fs, path::Path};

use wisehosting_protocol::message::{AgentMessage, HubMessage, Message};

use crate::{
    decoder,
    generator::{self, Payloads},
};

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
            "{}: the protocol has changed. If that is meant, raise VERSION in src/lib.rs (unless no release speaks it yet), \
             then: cargo run -p wisehosting-protocol --example vectors",
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
fn the_fuzzers_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(generator::CORPUS);
    for entry in fs::read_dir(folder).expect("the corpus") {
        let text = fs::read(entry.expect("a file").path()).expect("readable");
        decoder::survives(&String::from_utf8_lossy(&text));
    }
}
