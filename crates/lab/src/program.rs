//! A program that runs in a host, with its log file and the sockets that it is given.
//!
//! Invariant: a program is started with nothing of the lab's own environment but `PATH`, as a service manager would.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use command_fds::FdMapping;
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::process::{Child, Command};

use crate::host::{Host, HostError};

/// How long a program has to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// First file descriptor of the sockets that a service manager hands to a program.
const FIRST_LISTENER: i32 = 3;

/// What can go wrong with a program of the lab.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The host refused to start it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its log file or its sockets could not be prepared.
    #[error("cannot prepare the start of {name}")]
    Prepare {
        /// The program's name in the lab.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening socket that a program receives under a name.
#[derive(Debug)]
pub struct NamedSocket {
    /// Name by which the program knows it.
    pub name: &'static str,
    /// The socket, in whatever network namespace it was bound.
    pub socket: OwnedFd,
}

/// How a program is started.
#[derive(Debug)]
pub struct ProgramSpec {
    /// Name in the lab: of the log file, in messages.
    pub name: &'static str,
    /// The executable.
    pub executable: PathBuf,
    /// Its arguments. Never a secret: anybody can read them.
    pub arguments: Vec<String>,
    /// Its environment, beside `PATH`.
    pub environment: Vec<(String, String)>,
    /// Unprivileged user and group to run as.
    pub user: Option<(u32, u32)>,
    /// Sockets that it is handed.
    pub sockets: Vec<NamedSocket>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A program that was started in a host.
#[derive(Debug)]
pub struct Program {
    spec: ProgramSpec,
    child: Child,
}

impl Program {
    /// Starts it.
    pub fn start(host: &Host, spec: ProgramSpec) -> Result<Self, ProgramError> {
        let child = spec.spawn(host)?;
        Ok(Self { spec, child })
    }

    /// Its name in the lab.
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    /// Its process, as the machine numbers it, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, and kills it if it does not within ten seconds.
    pub async fn stop(&mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.pid() {
            nix::sys::signal::kill(pid, Signal::SIGTERM)?;
        }
        if let Ok(status) = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            return status;
        }
        self.kill().await
    }

    /// Kills it.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.start_kill()?;
        self.child.wait().await
    }

    /// Starts it again, after it has ended.
    pub fn restart(&mut self, host: &Host) -> Result<(), ProgramError> {
        self.child = self.spec.spawn(host)?;
        Ok(())
    }

    /// The last `count` lines of its log.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        last_lines(&self.spec.log, count)
    }
}

/// The last `count` lines of a log file; none if it cannot be read.
pub fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let content = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

impl ProgramSpec {
    fn spawn(&self, host: &Host) -> Result<Child, ProgramError> {
        let prepare = |source| ProgramError::Prepare { name: self.name.to_owned(), source };
        let log = File::options().append(true).create(true).open(&self.log).map_err(prepare)?;
        let mut command = Command::new(&self.executable);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(prepare)?)
            .stderr(log)
            // Ctrl-C is for the lab, which then ends its programs in order.
            .process_group(0)
            .kill_on_drop(true);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        // As systemd says it, without `LISTEN_PID`: the program is its own number only to itself.
        if !self.sockets.is_empty() {
            let names: Vec<&str> = self.sockets.iter().map(|named| named.name).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        host.spawn_with(command, self.descriptors().map_err(prepare)?).map_err(ProgramError::Host)
    }

    /// The sockets as systemd numbers them.
    fn descriptors(&self) -> io::Result<Vec<FdMapping>> {
        let mapping = |(child_fd, named): (i32, &NamedSocket)| {
            Ok(FdMapping { parent_fd: named.socket.try_clone()?, child_fd })
        };
        (FIRST_LISTENER..).zip(&self.sockets).map(mapping).collect()
    }
}
