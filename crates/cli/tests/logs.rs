//! What an app writes while programs are killed: who follows gets every line once, and so does who reads it afterwards,
//! when the container is gone.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{path::Path, process::Stdio};

use serde_json::Value;
use support::{command, lab::start_lab, repository::Repository, state_dir};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::ChildStdout,
    time::timeout,
};

const APP: &str = "counter";
/// Longer than anything here takes on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(90);
/// Lines between two kills.
const STEP: usize = 20;
/// Counts aloud for as long as it serves.
const COUNTER: &str = "#!/bin/sh\nmkdir -p /srv; echo hello >/srv/index.html; httpd -p \"${PORT:-8080}\" -h /srv\n\
                       trap 'echo bye; exit 0' TERM; i=0\n\
                       while :; do i=$((i+1)); echo $i; usleep 50000; done\n";

/// `wisehosting logs --follow`.
struct Following {
    events: Lines<BufReader<ChildStdout>>,
    numbers: Vec<String>,
}

impl Following {
    fn begin(directory: &Path) -> Self {
        let mut command = tokio::process::Command::from(command(directory));
        let child =
            command.args(["--json", "logs", APP, "--follow", "--tail", "5000"]).stdout(Stdio::piped());
        let mut child = child.kill_on_drop(true).spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        // It ends with its output, when the test does.
        tokio::spawn(async move { child.wait().await });
        Self { events, numbers: Vec::new() }
    }

    /// Waits until this line was written.
    async fn reaches(&mut self, text: &str) {
        while !self.numbers.iter().any(|number| number == text) {
            let event = timeout(PATIENCE, self.events.next_line()).await;
            let event = event.unwrap_or_else(|_| panic!("no {text} after {:?}", self.numbers.last()));
            self.numbers.extend(texts(&serde_json::from_str(&event.unwrap().unwrap()).unwrap()));
        }
    }
}

fn texts(log: &Value) -> Vec<String> {
    let lines = log["lines"].as_array().unwrap().iter().filter(|line| line["stream"] != "system");
    lines.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

fn run(directory: &Path, arguments: &[&str]) -> Value {
    let output = command(directory).arg("--json").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// That these are all numbers from 1 on, and then the end.
fn assert_each_once(texts: &[String], what: &str) {
    let (end, numbers) = texts.split_last().unwrap();
    assert_eq!(end, "bye", "{what}");
    for (number, text) in (1..).zip(numbers) {
        assert_eq!(*text, number.to_string(), "{what}: a line is missing, or there twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_there_once_whoever_is_killed() {
    let directory = state_dir();
    let mut lab = start_lab(directory.path()).await;
    let repository = Repository::of_example("hello");
    repository.change("start.sh", COUNTER);
    let deployed = run(directory.path(), &["deploy", repository.path(), "--name", APP, "--memory", "64M"]);
    assert_eq!(deployed["state"], "live");

    let mut following = Following::begin(directory.path());
    let mut number = 0;
    for round in 0..3 {
        number = following.numbers.len().max(number) + STEP;
        following.reaches(&number.to_string()).await;
        let (programs, hosts) = (&mut lab.programs, &lab.hosts);
        let (program, host) = match round {
            0 => (&mut programs.control_plane, &hosts.control_plane),
            1 => (&mut programs.worker, &hosts.worker),
            _ => (&mut programs.podman, &hosts.worker),
        };
        program.kill().await.unwrap();
        program.restart(host).unwrap();
    }
    following.reaches(&(following.numbers.len() + STEP).to_string()).await;

    let (stopping, ()) = tokio::join!(
        tokio::task::spawn_blocking({
            let directory = directory.path().to_owned();
            move || run(&directory, &["stop", APP])
        }),
        following.reaches("bye")
    );
    assert_eq!(stopping.unwrap()["state"], "stopped");
    assert_each_once(&following.numbers, "who followed");
    let afterwards = run(directory.path(), &["logs", APP, "--since", "1h"]);
    assert_each_once(&texts(&afterwards), "who reads afterwards");
    lab.stop().await.unwrap();
}
