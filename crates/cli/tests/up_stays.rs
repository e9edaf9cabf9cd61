//! A lab that stays in front: it is the only one in its folder, and it ends whole when told to.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use support::{Up, command, machine::Footprint};

#[test]
fn a_second_one_says_that_one_is_running() {
    let up = Up::start();
    let second = command(up.directory()).arg("up").output().unwrap();
    assert_eq!(second.status.code(), Some(7));
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(message.contains(&format!("process {}", up.pid())), "{message}");
    assert!(message.contains(up.ready["dashboard_url"].as_str().unwrap()), "{message}");

    let apps = up.run_json(&["apps"]);
    assert_eq!(apps["apps"][0]["name"], "hello");
    let footprint = Footprint::of(up.pid());
    assert!(footprint.size() >= (10, 15), "{footprint:?}");
    up.stop();
    assert_eq!(footprint.remains(), Vec::<String>::new());
}
