//! What somebody types who has no platform: git, podman, and a look whether it answers.
//!
//! In the worker's host, with the Podman store, the networks, the limits and the address that the platform uses there.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{process::Command, time::sleep};
use wisehosting_containers::service::{HardLimits, Service, ServiceCommand};
use wisehosting_lab::Host;

use crate::{LOOK_PAUSE, milliseconds};

const IMAGE: &str = "by-hand";
/// Below the ports that the platform gives to instances.
const ADDRESS: &str = "10.50.0.11:18080";
/// As the platform runs an instance that asks for nothing in particular.
const RUN: [&str; 14] = [
    "run",
    "--detach",
    "--name=by-hand",
    "--network=wisehosting-apps",
    "--publish=10.50.0.11:18080:8080",
    "--memory=256m",
    "--memory-swap=256m",
    "--cpus=1",
    "--pids-limit=512",
    "--cap-drop=ALL",
    "--cap-add=CHOWN,DAC_OVERRIDE,FOWNER,SETGID,SETUID",
    "--security-opt=no-new-privileges",
    "--log-opt=max-size=10mb",
    IMAGE,
];
const ANSWER_PAUSE: Duration = Duration::from_millis(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Who deploys by hand.
pub(crate) struct ByHand<'a> {
    host: &'a Host,
    podman: ServiceCommand,
    repository: PathBuf,
    clone: PathBuf,
}

impl<'a> ByHand<'a> {
    pub(crate) fn new(host: &'a Host, repository: &Path, folder: &Path) -> anyhow::Result<Self> {
        // The settings of the platform's engine; they are there already and stay what they are.
        let service = Service {
            state_dir: host.directory().join("podman"),
            socket: "/run/podman/podman.sock".into(),
            hard_limits: HardLimits::of_this_process()?,
            driver: None,
        };
        let mut podman = service.prepare()?;
        let options = podman.args.iter().take_while(|argument| *argument != "system").count();
        podman.args.truncate(options);
        Ok(Self { host, podman, repository: repository.to_owned(), clone: folder.join("by-hand") })
    }

    /// From the repository to the first answer; the parts with their times in milliseconds.
    pub(crate) async fn deploy(&self) -> anyhow::Result<[(&'static str, f64); 4]> {
        let begin = Instant::now();
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "clone", "--quiet", "--depth=1", "--no-tags"]);
        git.arg(format!("file://{}", self.repository.display())).arg(&self.clone);
        self.succeed(git).await?;
        let cloned = begin.elapsed();
        let clone = self.clone.as_os_str().to_owned();
        self.podman([
            "build".into(),
            "--network=wisehosting-build".into(),
            "--tag".into(),
            IMAGE.into(),
            clone,
        ])
        .await?;
        let built = begin.elapsed();
        self.podman(RUN.map(OsString::from)).await?;
        let started = begin.elapsed();
        self.host.run(wait_for_answer)??;
        let answered = begin.elapsed();
        Ok([
            ("1 clone", cloned),
            ("2 build", built - cloned),
            ("3 run", started - built),
            ("4 answer", answered - started),
        ]
        .map(|(name, took)| (name, milliseconds(took))))
    }

    /// Removes what [`Self::deploy`] made, except what the build cache keeps.
    pub(crate) async fn clean_up(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(&self.clone)?;
        self.podman(["rm", "--force", "--time=0", "by-hand"].map(OsString::from)).await?;
        self.podman(["rmi", IMAGE].map(OsString::from)).await?;
        Ok(())
    }

    /// Waits until no more than this many containers are left: the platform stops an old instance after its deploy.
    pub(crate) async fn until_containers(&self, count: usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.podman(["ps", "--all", "--quiet"].map(OsString::from)).await?.lines().count() > count {
            if begin.elapsed() > SETTLE_TIMEOUT {
                bail!("the platform does not stop the old instance");
            }
            sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    async fn podman<const N: usize>(&self, arguments: [OsString; N]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.podman.program);
        command.args(&self.podman.args).args(arguments).envs(self.podman.env.iter().cloned());
        self.succeed(command).await
    }

    /// Runs a program in the worker's host; answers what it prints.
    async fn succeed(&self, mut command: Command) -> anyhow::Result<String> {
        command.stdin(Stdio::null());
        let shown = format!("{:?}", command.as_std());
        let output = self.host.output(command).await?;
        if !output.status.success() {
            bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).context("a program printed bytes instead of text")
    }
}

/// Asks until there is an answer.
fn wait_for_answer() -> anyhow::Result<()> {
    let begin = Instant::now();
    while !answers() {
        if begin.elapsed() > ANSWER_TIMEOUT {
            bail!("nothing answers at {ADDRESS}");
        }
        std::thread::sleep(ANSWER_PAUSE);
    }
    Ok(())
}

fn answers() -> bool {
    let Ok(mut stream) = TcpStream::connect(ADDRESS) else { return false };
    let mut first = [0; 12];
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: by-hand\r\nConnection: close\r\n\r\n");
    asked.is_ok() && stream.read_exact(&mut first).is_ok() && first == *b"HTTP/1.1 200"
}
