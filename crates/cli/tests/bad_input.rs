//! What users get wrong: each ends in a sentence that says what to do, and the version that works keeps serving.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{fs, process::Output};

use serde_json::Value;
use support::{Up, command, repository::Repository, state_dir, visitor};

/// What a command that should not succeed said, and its exit status.
struct Refusal {
    status: i32,
    message: String,
}

impl Refusal {
    fn of(output: &Output) -> Self {
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let error: Value = serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let text = |field: &str| error["error"][field].as_str().unwrap_or_default().to_owned();
        Self { status: output.status.code().unwrap(), message: text("message") + " " + &text("hint") }
    }

    #[track_caller]
    fn must_be(&self, status: i32, part: &str) {
        assert!(self.status == status && self.message.contains(part), "{}: {}", self.status, self.message);
    }
}

/// Deploys as an app of its own, with limits that keep the test quick.
fn deploy(up: &Up, name: &str, repository: &str, more: &[&str]) -> Output {
    let arguments =
        ["--json", "deploy", repository, "--name", name, "--memory", "64M", "--health-timeout", "2"];
    up.run(&[&arguments, more].concat())
}

/// A repository whose only interesting part is its Dockerfile.
fn with_dockerfile(lines: &str) -> Repository {
    let repository = Repository::of_example("hello");
    repository.change("Dockerfile", &format!("FROM docker.io/library/busybox:1\n{lines}\n"));
    repository
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_what_works_keeps_working() {
    let up = Up::start();
    refused_at_once(&up);
    failed_deployments(&up).await;
    nothing_half_made(&up);
    wrong_servers_and_tokens(&up);
    up.stop();
}

fn refused_at_once(up: &Up) {
    let good = Repository::of_example("hello");
    let refusal = |name: &str, more: &[&str]| Refusal::of(&deploy(up, name, good.path(), more));
    refusal("Bad_Name", &[]).must_be(3, "name");
    refusal("app", &["--branch", "--upload-pack=x"]).must_be(3, "branch");
    let one_byte = up.run(&["--json", "deploy", good.path(), "--name", "app", "--memory", "1"]);
    Refusal::of(&one_byte).must_be(3, "16 MiB");
    Refusal::of(&up.run(&["--json", "deploy", "/no/such/folder", "--name", "app"]))
        .must_be(2, "/no/such/folder");
    Refusal::of(&up.run(&["--json", "apps", "show", "nobodys"])).must_be(3, "no such app");
    for command in ["logs", "restart", "start", "stop", "cancel", "delete"] {
        Refusal::of(&up.run(&["--json", command, "nobodys"])).must_be(3, "no such app");
    }
    Refusal::of(&up.run(&["--json", "deployments", "--cancel", "not-an-id"])).must_be(3, "");
}

async fn failed_deployments(up: &Up) {
    let site = Repository::of_example("hello");
    assert!(deploy(up, "site", site.path(), &[]).status.success());

    let empty = state_dir();
    let failure = |repository: &str| Refusal::of(&deploy(up, "site", repository, &[]));
    failure(empty.path().to_str().unwrap()).must_be(1, "repository");
    let failure_of = |dockerfile: &str| failure(with_dockerfile(dockerfile).path());
    failure_of("RUN echo broken >&2; exit 3").must_be(1, "build");
    failure_of("CMD [\"/bin/false\"]").must_be(1, "ended");
    failure_of("EXPOSE 8080\nCMD [\"/bin/sleep\", \"1000\"]").must_be(1, "8080");
    let no_branch = deploy(up, "site", site.path(), &["--branch", "no-such-branch"]);
    Refusal::of(&no_branch).must_be(1, "no-such-branch");
    for needed in ["Dockerfile", "index.html"] {
        fs::remove_file(format!("{}/{needed}", site.path())).unwrap();
    }
    site.change("VERSION", "2\n");
    failure(site.path()).must_be(1, "Dockerfile");

    let url = format!("http://site.localhost:{}/", up.http_port());
    let page = visitor("site", up.http_port(), true).get(url).send().await.unwrap();
    assert!(page.status() == 200 && page.text().await.unwrap().contains("<dd id=\"version\">1"));
    assert_eq!(up.run_json(&["apps", "show", "site"])["state"], "degraded");
}

/// After all that, the worker has two instances (the lab's own app and the one that works) and no sources.
fn nothing_half_made(up: &Up) {
    let workers = up.run_json(&["workers"]);
    assert_eq!(workers["workers"][0]["instances"], 2, "{workers}");
    let sources = up.directory().join("hosts/worker-1/work");
    assert_eq!(fs::read_dir(sources).unwrap().count(), 0);
}

fn wrong_servers_and_tokens(up: &Up) {
    let token = up.directory().join("wrong.token");
    fs::write(&token, "wht_0123456789").unwrap();
    let wrong_token = command(up.directory())
        .args(["--json", "apps"])
        .env("WISEHOSTING_TOKEN_FILE", &token)
        .output()
        .unwrap();
    let refusal = Refusal::of(&wrong_token);
    refusal.must_be(5, "API token is not valid");
    assert!(!refusal.message.contains("wht_0123456789"));

    let nobody = up.run(&["--json", "--server", "http://127.0.0.1:1", "apps"]);
    Refusal::of(&nobody).must_be(4, "http://127.0.0.1:1");
}
