//! `docs/protocol.md` knows every message type, how it waits, and every field of it: its name, what it takes and whether it
//! may be null.

use serde_json::value::RawValue;
use wisehosting_domain::preset::Preset;
use wisehosting_protocol::{
    VERSION,
    message::{AgentMessage, HubMessage, Message, Queueing},
    payload::{CURSOR_BYTES_MAX, LINES_MAX},
};

use crate::{
    generator::Payloads,
    shapes::{self, Shape},
    vectors::payloads,
};

const DOCUMENT: &str = include_str!("../../../../docs/protocol.md");

fn row_of(kind: &str) -> Vec<&'static str> {
    let begin = format!("| `{kind}` | ");
    let row = DOCUMENT.lines().find(|line| line.starts_with(&begin) && line.matches('|').count() > 5);
    cells(row.unwrap_or_else(|| panic!("docs/protocol.md: {kind} is missing")))
}

fn cells(row: &'static str) -> Vec<&'static str> {
    row.split('|').map(str::trim).collect()
}

fn assert_policy<M: Message>(kind: &str, example: &RawValue) {
    let expected = match M::decode(kind, example.get()).map(|message| message.queueing()).ok() {
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

/// The fields in the tables of a type's section, and the row of each.
fn documented(kind: &str) -> Vec<Vec<&'static str>> {
    let is_heading = |line: &str| line.starts_with("### ") && line.contains(&format!("`{kind}`"));
    let section = DOCUMENT.lines().skip_while(|line| !is_heading(line)).skip(1);
    let rows = section.take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `"));
    rows.map(cells).collect()
}

#[test]
fn the_document_knows_every_field_of_every_type() {
    let shapes = shapes::shapes(&payloads());
    for (kind, shape) in shapes.agent.iter().chain(&shapes.hub) {
        let rows = documented(kind).into_iter();
        let documented: Shape = rows.map(|row| (row[1].replace('`', ""), row[2].to_owned())).collect();
        assert_eq!(&documented, shape, "docs/protocol.md, section 5 (left): the fields of {kind} (right)");
    }
}

#[test]
fn the_document_knows_what_the_decoder_is_asked_no_better() {
    let preset = documented("job").into_iter().find(|row| row[1].ends_with(".preset`")).expect("a row");
    for name in Preset::ALL {
        assert!(preset[3].contains(&format!("`{}`", name.as_str())), "docs/protocol.md: the preset {name}");
    }
    for sentence in [
        format!("x-wisehosting-protocol: {VERSION}\n"),
        format!("the version of the protocol, {VERSION}."),
        format!("{CURSOR_BYTES_MAX} bytes"),
        format!("{LINES_MAX} lines"),
    ] {
        assert!(DOCUMENT.contains(&sentence), "docs/protocol.md: {sentence:?} is missing");
    }
}
