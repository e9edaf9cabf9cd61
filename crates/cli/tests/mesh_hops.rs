//! The hops of the mesh, between real hosts with a real container behind: a mebibyte there and back by the hub and directly, and what
//! `doctor` says when each hop is broken in turn.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use support::{command, lab::start_lab, repository::Repository, state_dir, visitor};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};
use wisehosting_lab::{Host, Lab};

const APP: &str = "echo";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const MEBIBYTE: usize = 1 << 20;
/// Answers with what it is sent.
const ECHO: &str = "#!/bin/sh\nmkdir -p /srv/cgi-bin; echo hello >/srv/index.html\n\
                    printf '#!/bin/sh\\nprintf \"Content-Type: application/octet-stream\\\\r\\\\n\\\\r\\\\n\"; exec cat\\n' \
                    >/srv/cgi-bin/echo\nchmod +x /srv/cgi-bin/echo; exec httpd -f -p \"${PORT:-8080}\" -h /srv\n";

/// What a host drops until [`mend`].
async fn cut(host: &Host, hook: &str, what: &str) {
    nft(host, &["add", "table", "inet", "cut"]).await;
    nft(
        host,
        &["add", "chain", "inet", "cut", "gap", &format!("{{ type filter hook {hook} priority -10; }}")],
    )
    .await;
    nft(host, &["add", "rule", "inet", "cut", "gap", what, "drop"]).await;
}

async fn mend(host: &Host) {
    nft(host, &["delete", "table", "inet", "cut"]).await;
}

async fn nft(host: &Host, arguments: &[&str]) {
    let mut command = Command::new("nft");
    command.arg(arguments.join(" "));
    let output = host.output(command).await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Lets a host declare the control plane alone, which then names the others.
fn forget_others(host: &Host) {
    let file = host.directory().join("config.toml");
    let mut settings: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap();
    let peers = settings["mesh"]["peers"].as_array_mut().unwrap();
    peers.retain(|peer| peer["name"].as_str() == Some("control-plane-1"));
    assert_eq!(peers.len(), 1);
    fs::write(file, settings.to_string()).unwrap();
}

/// What a command prints as JSON, until it is as asked.
async fn until(directory: &Path, arguments: &[&str], is_so: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = command(directory).arg("--json").args(arguments).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if is_so(&said) {
            return;
        }
        assert!(Instant::now() < deadline, "{arguments:?}: {said:#}");
        sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until `doctor` names this hop as the only one that fails, with this repair; or none.
async fn doctor_names(lab: &Lab, bad: Option<(&str, &str)>) {
    let as_asked = |said: &Value| {
        let Some(findings) = said["findings"].as_array() else { return false };
        let bad_ones: Vec<&Value> = findings.iter().filter(|finding| finding["good"] == false).collect();
        match (bad, &bad_ones[..]) {
            (None, []) => true,
            (Some((hop, repair)), [one]) => {
                one["hop"] == hop && one["repair"].as_str().unwrap().contains(repair)
            }
            _ => false,
        }
    };
    until(lab.state_dir(), &["doctor", APP], as_asked).await;
}

async fn goes(lab: &Lab, path: &str) {
    let is_so = |said: &Value| {
        let ways = [("worker-1", "proxy-1"), ("proxy-1", "worker-1")];
        ways.iter().all(|(from, to)| {
            let node =
                said["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == *from));
            let links = node.and_then(|node| node["told"]["links"].as_array());
            links.is_some_and(|links| links.iter().any(|link| link["name"] == *to && link["path"] == path))
        })
    };
    until(lab.state_dir(), &["mesh", "status"], is_so).await;
}

/// The same without `--json`: a line for each way, with all that is known of it.
fn shows_people(lab: &Lab, path: &str) {
    let output = command(lab.state_dir()).args(["mesh", "status"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let way = text.lines().find(|line| line.starts_with("worker-1") && line.contains("proxy-1"));
    let way = way.unwrap_or_else(|| panic!("{text}"));
    assert!([path, " s ago", " ms", " MiB"].iter().all(|part| way.contains(part)), "{text}");
}

/// A mebibyte to the container, and back.
async fn transfers(lab: &Lab) {
    let sent: Vec<u8> = (0..MEBIBYTE).map(|position| (position % 251) as u8).collect();
    let port = lab.running().http_port;
    let url = format!("http://{APP}.localhost:{port}/cgi-bin/echo");
    let answer = visitor(APP, port, false).post(url).body(sent.clone()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let back = answer.bytes().await.unwrap();
    assert!(back == sent, "{} bytes came back, or others", back.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mebibyte_goes_each_way_and_each_broken_hop_is_named() {
    let directory = state_dir();
    let mut lab = start_lab(directory.path()).await;
    let repository = Repository::of_example("hello");
    repository.change("start.sh", ECHO);
    let deploy = ["deploy", repository.path(), "--name", APP, "--memory", "64M"];
    let deployed = command(directory.path()).args(deploy).output().unwrap();
    assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));

    // Neither hears the other directly.
    cut(&lab.hosts.worker, "input", "ip saddr 198.51.100.30 udp dport 51821").await;
    forget_others(&lab.hosts.worker);
    forget_others(&lab.hosts.proxy);
    let (programs, hosts) = (&mut lab.programs, &lab.hosts);
    for (program, host) in [(&mut programs.worker, &hosts.worker), (&mut programs.edge, &hosts.proxy)] {
        program.kill().await.unwrap();
        program.restart(host).unwrap();
    }
    goes(&lab, "hub").await;
    doctor_names(&lab, None).await;
    transfers(&lab).await;

    cut(&lab.hosts.control_plane, "forward", "iifname wh0").await;
    doctor_names(&lab, Some(("proxy-1 -> worker-1", "let forwarded packets pass"))).await;
    mend(&lab.hosts.control_plane).await;

    mend(&lab.hosts.worker).await;
    goes(&lab, "direct").await;
    shows_people(&lab, "direct");
    doctor_names(&lab, None).await;
    transfers(&lab).await;

    cut(&lab.hosts.worker, "input", "udp dport 51821").await;
    doctor_names(&lab, Some(("control plane -> worker-1", "UDP does not pass"))).await;
    mend(&lab.hosts.worker).await;
    doctor_names(&lab, None).await;

    lab.programs.edge.kill().await.unwrap();
    doctor_names(&lab, Some(("control plane -> proxy-1", "agent"))).await;
    lab.programs.edge.restart(&lab.hosts.proxy).unwrap();
    doctor_names(&lab, None).await;

    lab.programs.postgres.kill().await.unwrap();
    doctor_names(&lab, Some(("this machine -> control plane", "postgresql"))).await;
    lab.programs.control_plane.kill().await.unwrap();
    doctor_names(&lab, Some(("this machine -> control plane", "wisehosting-control-plane"))).await;
    transfers(&lab).await;
    lab.stop().await.unwrap();
}
