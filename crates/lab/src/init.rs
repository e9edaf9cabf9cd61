//! The first process of a host: process 1 of its process namespace.
//!
//! It lays out the host from the inside, reaps orphans, and is the host's lifeline. Invariant: it ends when the lab's
//! process ends, however that happens (the kernel kills it on the death of its parent, and its standard input closes),
//! and with process 1 the kernel ends every other process of the host and drops its namespaces.

use std::{
    fmt::Display,
    io::{self, Write},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, sethostname},
};
use serde::{Deserialize, Serialize};

use crate::{cgroups::Hierarchies, mounts};

/// What init says on its standard output when the host is laid out; anything else is the reason why it is not.
pub(crate) const READY: &str = "ready";

/// What makes one host different from another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostSpec {
    /// Host name, also the name of its control group.
    pub name: String,
    /// Files of the host on the machine: configuration, state, `/var/tmp`.
    pub directory: PathBuf,
    /// Control group of the host, relative to the root of each hierarchy.
    pub cgroup: PathBuf,
    /// Shown as `/etc/resolv.conf` in the host, when it has a way out.
    pub nameserver: Option<Ipv4Addr>,
}

/// Runs as process 1 of a host until the lab's process lets go of the other end of standard input.
///
/// `spec` is a [`HostSpec`] as JSON. Programs that start a lab offer this as a hidden subcommand.
pub fn run(spec: &str) -> ExitCode {
    let signals = match set_up(spec) {
        Ok(signals) => signals,
        Err(reason) => {
            say(reason);
            return ExitCode::FAILURE;
        }
    };
    say(READY);
    match serve(&signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A closed pipe means that the lab's process is gone; [`serve`] notices that too.
fn say(line: impl Display) {
    let mut output = io::stdout();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn set_up(spec: &str) -> io::Result<SignalFd> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let spec: HostSpec = serde_json::from_str(spec)?;
    let mut expected = SigSet::empty();
    expected.add(Signal::SIGCHLD);
    expected.add(Signal::SIGTERM);
    expected.add(Signal::SIGINT);
    expected.thread_block()?;

    mounts::make_private()?;
    let hierarchies = Hierarchies::of_this_machine()?;
    hierarchies.enter(&spec.cgroup)?;
    mounts::set_up(&spec, &hierarchies)?;
    sethostname(&spec.name)?;
    Ok(SignalFd::with_flags(&expected, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Returns when the host shall end.
fn serve(signals: &SignalFd) -> io::Result<()> {
    let stdin = io::stdin();
    loop {
        let mut sources =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut sources, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        // Nothing is ever written to standard input: whatever happens there is its end.
        if sources[1].any() == Some(true) {
            return Ok(());
        }
        while let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                return Ok(());
            }
        }
        reap_orphans();
    }
}

fn reap_orphans() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
