//! The golden vectors are enough for another implementation: one in another language, which shares nothing with this
//! one, agrees with them.

use std::process::Command;

#[test]
fn another_implementation_agrees_with_the_vectors() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol/independent.mjs");
    let output = Command::new("node").arg(script).output().expect("node is installed (./dev setup test)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
