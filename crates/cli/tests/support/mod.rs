//! What the end-to-end tests share: a lab started by the real command, and what the machine has of it.
#![expect(dead_code, reason = "each test is a program of its own and uses a part of this")]

pub(crate) mod lab;
pub(crate) mod machine;
pub(crate) mod repository;

use std::{
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;

/// A lab, run by `wisehosting up --json` in a folder of its own.
pub(crate) struct Up {
    process: Child,
    events: Lines<BufReader<ChildStdout>>,
    directory: TempDir,
    /// The event `ready`.
    pub(crate) ready: Value,
}

impl Up {
    /// Starts it on free ports and waits until its first app is live.
    pub(crate) fn start() -> Self {
        Self::start_in(state_dir())
    }

    /// The same in a folder that the caller has made.
    pub(crate) fn start_in(directory: TempDir) -> Self {
        let mut process = command(directory.path())
            .args(["up", "--json", "--port", "0", "--http-port", "0", "--https-port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut events = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = loop {
            let line =
                events.next().expect("up ended before the lab was ready (its reason is above)").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "ready" {
                break event;
            }
        };
        Self { process, events, directory, ready }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The port of the apps on the loopback.
    pub(crate) fn http_port(&self) -> u16 {
        let url = self.ready["app_url"].as_str().unwrap();
        url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Runs the command against this lab.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        command(self.directory()).args(arguments).output().unwrap()
    }

    /// The same, which must succeed; answers what it prints.
    pub(crate) fn run_json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) {
        nix::sys::signal::kill(self.pid(), Signal::SIGTERM).unwrap();
        while let Some(Ok(_)) = self.events.next() {}
        let status = self.process.wait().unwrap();
        assert!(status.success(), "up ended with {status}");
    }

    /// Kills it as nobody should, and answers the folder that it leaves.
    pub(crate) fn kill(mut self) -> TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        // The value is taken apart here, so that its drop has nothing to do.
        std::mem::replace(&mut self.directory, TempDir::with_prefix("wisehosting-").unwrap())
    }
}

impl Drop for Up {
    /// A test that panics takes its lab along.
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let _ = nix::sys::signal::kill(self.pid(), Signal::SIGTERM);
            let _ = self.process.wait();
        }
    }
}

/// A folder that Postgres, which is not root, can pass through.
pub(crate) fn state_dir() -> TempDir {
    let directory = TempDir::with_prefix("wisehosting-").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), mode).unwrap();
    directory
}

/// The command, with this folder for its lab and nothing from the tester's own configuration.
pub(crate) fn command(state_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wisehosting"));
    command
        .env("WISEHOSTING_LAB_DIR", state_dir)
        .env("XDG_CONFIG_HOME", state_dir.join("no-config"))
        .env_remove("WISEHOSTING_SERVER")
        .env_remove("WISEHOSTING_TOKEN_FILE")
        .stdin(Stdio::null());
    command
}

/// A visitor's client: it finds `<app>.localhost` at the proxy, and opens a new connection for each request if asked to.
pub(crate) fn visitor(app: &str, http_port: u16, keep_connections: bool) -> reqwest::Client {
    wisehosting_node::tls::install_provider();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], http_port));
    reqwest::Client::builder()
        .no_proxy()
        .resolve(&format!("{app}.localhost"), address)
        .pool_max_idle_per_host(if keep_connections { usize::MAX } else { 0 })
        .timeout(std::time::Duration::from_secs(30))
        .build()
        .unwrap()
}

/// Where things that are expensive to make are kept between runs.
pub(crate) fn cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
