//! A host's way out to the machine's network, for builds that reach package registries.
//!
//! slirp4netns translates the host's connections into ordinary sockets of the machine, so that no address, route or
//! firewall rule of the machine changes. Invariants: it runs in the host's process namespace (and so ends with the
//! host, whatever happens) but in the machine's network; the machine's loopback stays out of reach.

use std::{fs::File, io, net::Ipv4Addr, path::Path, process::Stdio, thread, time::Duration};

use command_fds::{CommandFdExt, FdMapping};
use nix::{fcntl::OFlag, sched::CloneFlags, unistd::pipe2};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
};

use crate::{
    host::{Host, enter},
    program::last_lines,
};

/// The name server that slirp4netns offers; it asks the machine's.
pub(crate) const NAMESERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

const LINK: &str = "uplink";
const MTU: &str = "1500";
const READY_FD: i32 = 3;
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a host has no way out.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// slirp4netns did not start.
    #[error("cannot start slirp4netns")]
    Start(#[from] io::Error),
    /// slirp4netns ended or did not become ready.
    #[error("slirp4netns gave host {host} no way out: {}", .log.join(" / "))]
    NotReady {
        /// Name of the host.
        host: String,
        /// The last lines that it printed.
        log: Vec<String>,
    },
}

/// A running slirp4netns; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Uplink {
    slirp: Child,
}

impl Uplink {
    /// Gives the host a default route and a name server. Returns when both work.
    pub(crate) async fn attach(host: &Host, log: &Path) -> Result<Self, UplinkError> {
        let (ready, says_ready) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from)?;
        let output = File::options().append(true).create(true).open(log)?;
        let mut command = Command::new("slirp4netns");
        command
            .args(["--configure", "--disable-host-loopback", "--mtu", MTU])
            .args(["--netns-type", "path", "--ready-fd", &READY_FD.to_string()])
            .arg(format!("/proc/{}/ns/net", host.init_pid()))
            .arg(LINK)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .fd_mappings(vec![FdMapping { parent_fd: says_ready, child_fd: READY_FD }])
            .map_err(io::Error::other)?;
        let slirp = spawn_among_processes_of(host, command)?;
        host.take_over(&slirp).map_err(io::Error::other)?;

        let mut ready = pipe::Receiver::from_owned_fd(ready)?;
        match tokio::time::timeout(READY_TIMEOUT, ready.read_u8()).await {
            Ok(Ok(_)) => Ok(Self { slirp }),
            _ => Err(UplinkError::NotReady { host: host.name().to_owned(), log: last_lines(log, 3) }),
        }
    }

    /// Takes the way out away.
    pub(crate) async fn stop(&mut self) {
        // The host's end does the same.
        let _ = self.slirp.kill().await;
    }
}

/// Starts a program in the host's process namespace and, for everything else, outside.
fn spawn_among_processes_of(host: &Host, mut command: Command) -> io::Result<Child> {
    let runtime = tokio::runtime::Handle::current();
    let processes = File::open(format!("/proc/{}/ns/pid", host.init_pid()))?;
    let thread = thread::Builder::new().name("uplink".to_owned()).spawn(move || {
        enter(&processes, CloneFlags::CLONE_NEWPID)?;
        let _runtime = runtime.enter();
        command.spawn()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts slirp4netns panicked")))
}
