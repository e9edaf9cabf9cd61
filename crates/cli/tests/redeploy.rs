//! Redeploys and restarts under load: visitors, in a process of their own, lose no request.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    collections::BTreeMap,
    env,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use support::{Up, repository::Repository, visitor};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const REDEPLOYS: usize = 20;
/// After every so many redeploys, one restart.
const RESTART_EVERY: usize = 10;
/// Visitors at the same time, half of whom open a new connection for each request.
const VISITORS: usize = 8;
/// Tells the test program that it is the second process: the port to visit.
const VISIT_PORT: &str = "WISEHOSTING_TEST_VISIT_PORT";

/// What the visitors saw.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    /// Answers by the version that gave them.
    versions: BTreeMap<String, u64>,
    /// Requests without a good answer, and why.
    failures: Vec<String>,
}

#[test]
fn redeploys_and_restarts_lose_no_request() {
    let up = Up::start();
    let repository = Repository::of_example("hello");
    let deploy = || up.run_json(&["deploy", repository.path(), "--name", "busy", "--memory", "64M"]);
    repository.change("VERSION", "0\n");
    deploy();

    let mut visitors = start_visitors(up.http_port());
    for version in 1..=REDEPLOYS {
        repository.change("VERSION", &format!("{version}\n"));
        assert_eq!(deploy()["state"], "live");
        if version % RESTART_EVERY == 0 {
            assert_eq!(up.run_json(&["restart", "busy"])["state"], "live");
            let log = up.run_json(&["logs", "busy", "--build"]).to_string();
            assert!(log.contains("from the image that is kept"), "nothing is built: {log}");
        }
    }
    let seen = end_visitors(&mut visitors);
    assert_eq!(seen.failures, Vec::<String>::new(), "of {:?}", seen.versions);
    for version in 0..=REDEPLOYS {
        assert!(seen.versions.contains_key(&version.to_string()), "nobody saw version {version}: {seen:?}");
    }
    stopped_started_and_deleted(&up, &repository);
    up.stop();
}

fn stopped_started_and_deleted(up: &Up, repository: &Repository) {
    assert_eq!(up.run_json(&["stop", "busy"])["state"], "stopped");
    assert_eq!(up.run_json(&["start", "busy"])["state"], "live");
    let log = up.run_json(&["logs", "busy", "--build"]).to_string();
    assert!(log.contains("from the image that is kept"), "nothing is built: {log}");

    let before = up.run_json(&["apps", "show", "busy"])["id"].clone();
    up.run_json(&["delete", "busy"]);
    let begun = Instant::now();
    // The name is free once the worker has removed everything.
    let deploy = ["--json", "deploy", repository.path(), "--name", "busy", "--memory", "64M"];
    while !up.run(&deploy).status.success() {
        assert!(begun.elapsed() < PATIENCE, "the name does not become free");
        thread::sleep(Duration::from_millis(100));
    }
    assert_ne!(up.run_json(&["apps", "show", "busy"])["id"], before, "it is another app");
}

fn start_visitors(http_port: u16) -> Child {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "visitors", "--nocapture", "--test-threads=1"])
        .env(VISIT_PORT, http_port.to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    child
}

fn end_visitors(child: &mut Child) -> Seen {
    drop(child.stdin.take());
    let mut report = String::new();
    child.stderr.take().unwrap().read_to_string(&mut report).unwrap();
    assert!(child.wait().unwrap().success(), "{report}");
    serde_json::from_str(&report).unwrap()
}

/// The second process: visits until its standard input ends, then reports. Run as a test of its own, it has nobody to
/// visit. (Standard output belongs to the test harness, so it speaks on standard error.)
#[test]
fn visitors() {
    let Ok(port) = env::var(VISIT_PORT) else { return };
    let port: u16 = port.parse().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seen = runtime.block_on(async {
        let visits: Vec<_> =
            (0..VISITORS).map(|n| tokio::spawn(visit(port, n % 2 == 0, Arc::clone(&done)))).collect();
        std::io::stderr().write_all(b"\n").unwrap();
        let mut all = Seen::default();
        for visit in visits {
            let seen = visit.await.unwrap();
            all.failures.extend(seen.failures);
            for (version, count) in seen.versions {
                *all.versions.entry(version).or_default() += count;
            }
        }
        all
    });
    eprintln!("{}", serde_json::to_string(&seen).unwrap());
}

async fn visit(port: u16, keep_connections: bool, done: Arc<AtomicBool>) -> Seen {
    let client = visitor("busy", port, keep_connections);
    let url = format!("http://busy.localhost:{port}/");
    let mut seen = Seen::default();
    while !done.load(Ordering::Relaxed) {
        match page(&client, &url).await {
            Ok(version) => *seen.versions.entry(version).or_default() += 1,
            Err(reason) => seen.failures.push(reason),
        }
        // Many visitors, not a benchmark: the machine also has to build.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen
}

/// The version on the page, or why there is none.
async fn page(client: &reqwest::Client, url: &str) -> Result<String, String> {
    let response = client.get(url).send().await.map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let body = response.text().await.map_err(|error| format!("{error:?}"))?;
    let version = body.split_once("<dd id=\"version\">").and_then(|(_, rest)| rest.split('<').next());
    match version {
        Some(version) if status == 200 => Ok(version.trim().to_owned()),
        _ => Err(format!("status {status}: {body:.200}")),
    }
}
