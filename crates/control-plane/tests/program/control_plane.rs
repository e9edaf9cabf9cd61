//! A control plane as a program of its own, in a folder of its own.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Longest wait for something that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// As `openssl rand -base64 32` prints one.
const MASTER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
const PROGRAM: &str = env!("CARGO_BIN_EXE_wisehosting-control-plane");

/// The folder with the configuration, its secrets, and a way to Postgres that can be taken away.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    socket: PathBuf,
    /// The server's real socket.
    server_socket: PathBuf,
}

impl Site {
    pub(crate) fn new(pool: &PgPool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = pool.connect_options();
        let socket_name = format!(".s.PGSQL.{}", options.get_port());
        let host = options.get_socket().expect("DATABASE_URL names a unix socket");
        let site =
            Self { socket: folder.path().join(&socket_name), server_socket: host.join(&socket_name), folder };
        for (name, secret) in [("jwt", "a secret\n"), ("traefik", "a secret\n"), ("master", MASTER_KEY)] {
            fs::write(site.folder.path().join(name), secret).unwrap();
        }
        let (user, database) = (options.get_username(), options.get_database().unwrap());
        let path = site.folder.path().display();
        let config = format!(
            "[public]\nlisten = \"127.0.0.1:0\"\nbase_url = \"http://127.0.0.1\"\n\
             [internal]\nlisten = \"127.0.0.1:0\"\n\
             [database]\nurl = \"postgres://{user}@localhost/{database}?host={path}\"\n\
             [secrets]\njwt_secret_file = \"{path}/jwt\"\ntraefik_token_file = \"{path}/traefik\"\n\
             master_key_file = \"{path}/master\"\n\
             [apps]\nallow_local_repositories = true\n"
        );
        fs::write(site.config(), config).unwrap();
        site
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    pub(crate) fn let_postgres_come(&self) {
        symlink(&self.server_socket, &self.socket).unwrap();
    }

    pub(crate) fn take_postgres_away(&self) {
        fs::remove_file(&self.socket).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.prepare(arguments).output().unwrap()
    }

    /// Changes the configuration.
    pub(crate) fn configure(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.config(), text.replacen(from, to, 1)).unwrap();
    }

    /// What a command prints, without the end of the line.
    pub(crate) fn printed_by(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn prepare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.config()).args(arguments).env_remove("CREDENTIALS_DIRECTORY");
        command
    }

    pub(crate) fn run(&self) -> ControlPlane {
        let mut child = self.prepare(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody may be reading any more.
                let _ = sender.send(line);
            }
        });
        let mut control_plane = ControlPlane { child, log, seen: RefCell::default(), url: String::new() };
        // The public listener is the first of the two.
        let line = control_plane.logs("listening");
        let address = line.split_once("address=").unwrap().1;
        control_plane.url = format!("http://{}", address.split_whitespace().next().unwrap());
        control_plane
    }
}

/// A running control plane; it is killed at the end of the test.
pub(crate) struct ControlPlane {
    child: Child,
    log: Receiver<String>,
    seen: RefCell<Vec<String>>,
    pub(crate) url: String,
}

impl ControlPlane {
    /// The first log line with these words, as soon as there is one.
    pub(crate) fn logs(&self, words: &str) -> String {
        let mut seen = self.seen.borrow_mut();
        loop {
            if let Some(line) = seen.iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            let Ok(line) = self.log.recv_timeout(PATIENCE) else {
                panic!("no log line says {words:?}: {seen:#?}");
            };
            seen.push(line);
        }
    }

    /// Waits until `/healthz` has this status, which is the only event that tells it, and returns the answer.
    pub(crate) async fn until_health_is(&self, status: u16) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (now, body) = self.get("/healthz").await;
            if now == status {
                return body;
            }
            assert!(Instant::now() < deadline, "{now} instead of {status}: {body}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it answers now: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let client = wisehosting_node::http::client().unwrap();
        let response = client.get(format!("{}{path}", self.url)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Asks it to end, and waits until it has: its exit code, and all that it logged.
    pub(crate) fn stop(mut self) -> (Option<i32>, Vec<String>) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let code = self.child.wait().unwrap().code();
        let mut log = self.seen.take();
        // The end of its standard error follows its own.
        log.extend(self.log.iter());
        (code, log)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
