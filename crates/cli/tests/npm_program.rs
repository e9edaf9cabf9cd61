//! A program that is not ours: a web server from the npm registry, installed by its Dockerfile during the build.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use support::{Up, cache, repository::Repository, visitor};

/// Debian with Node.js, in the place of the image that the example's Dockerfile begins with.
const IMAGE: &str = "docker.io/library/node:22";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_from_npm_answers_through_the_proxy() {
    let archive = debian_with_node();
    let up = Up::start();
    import(&up, &archive).await;
    let repository = Repository::of_example("node");
    let deployment = up.run_json(&["deploy", repository.path(), "--name", "npm", "--memory", "256M"]);
    assert_eq!(deployment["state"], "live");

    let url = format!("http://npm.localhost:{}/", up.http_port());
    let response = visitor("npm", up.http_port(), true).get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().await.unwrap().contains("Served by http-server"));
    up.stop();
}

/// A root file system, made once: about a minute. What this machine trusts, the builds in it trust too.
fn debian_with_node() -> PathBuf {
    let archive = cache().join("debian-node.tar");
    if archive.exists() {
        return archive;
    }
    let unfinished = cache().join("debian-node.tar.new");
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--include=nodejs,npm,ca-certificates"])
        .arg("--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs")
        .args(["--format=tar", "bookworm"])
        .arg(&unfinished)
        .output()
        .expect("mmdebstrap is installed (./dev setup test does that)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(unfinished, &archive).unwrap();
    archive
}

/// Puts it into the store of the lab's worker, over its engine's socket.
async fn import(up: &Up, archive: &Path) {
    wisehosting_node::tls::install_provider();
    let socket = engine_socket(up);
    let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
    let trust = "ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt";
    let mut url = reqwest::Url::parse("http://podman/v4.0.0/libpod/images/import").unwrap();
    url.query_pairs_mut().append_pair("reference", IMAGE).append_pair("changes", trust);
    let file = tokio::fs::File::open(archive).await.unwrap();
    let response = client.post(url).body(file).send().await.unwrap();
    let status = response.status();
    assert!(status.is_success(), "{status}: {}", response.text().await.unwrap());
}

/// The socket on the worker's private `/run`.
fn engine_socket(up: &Up) -> PathBuf {
    let running = fs::read(up.directory().join("running.json")).unwrap();
    let running: serde_json::Value = serde_json::from_slice(&running).unwrap();
    PathBuf::from(format!("/proc/{}/root/run/podman/podman.sock", running["hosts"]["worker-1"]))
}
