//! A lab whose process is killed: the kernel ends all of it, and `down` removes the rest.
//!
//! A program of its own, because it compares the whole machine before and after: no other test may run meanwhile.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use support::{
    Up, command,
    machine::{Footprint, Machine},
    state_dir,
};

/// How long the kernel may take to end a killed lab's processes.
const KERNEL_TIME: Duration = Duration::from_secs(60);

#[test]
fn a_killed_one_leaves_nothing_that_runs() {
    let directory = state_dir();
    let before = Machine::observe(directory.path());
    let up = Up::start_in(directory);
    let footprint = Footprint::of(up.pid());
    assert_ne!(Machine::observe(up.directory()), before, "its control groups are seen");
    let directory = up.kill();
    let killed = Instant::now();
    while !footprint.remains().is_empty() {
        assert!(killed.elapsed() < KERNEL_TIME, "{:?}", footprint.remains());
        thread::sleep(Duration::from_millis(10));
    }
    let down = command(directory.path()).arg("down").output().unwrap();
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert_eq!(Machine::observe(directory.path()), before);
    assert!(!directory.path().exists());
}
