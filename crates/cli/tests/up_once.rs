//! The whole of `up --once`, as a newcomer runs it: start, deploy, request, receipt, and nothing left.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use serde_json::Value;
use support::{command, machine::Machine, state_dir};

#[test]
fn up_once_does_it_all_and_leaves_nothing() {
    let directory = state_dir();
    let before = Machine::observe(directory.path());
    let output = command(directory.path())
        .args(["up", "--once", "--json", "--port", "0", "--http-port", "0", "--https-port", "0"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let events: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let receipt = events.last().unwrap();
    assert_eq!(receipt["event"], "receipt");
    for request in receipt["requests"].as_array().unwrap() {
        assert_eq!(request["status"], 200, "{request}");
    }
    assert_eq!(receipt["requests"].as_array().unwrap().len(), 2, "with and without TLS");
    let deployed = events.iter().find(|event| event["event"] == "deployed").unwrap();
    assert_eq!(deployed["deployment"]["state"], "live");

    assert_eq!(Machine::observe(directory.path()), before);
    assert!(!directory.path().exists(), "the lab's folder is removed");
}
