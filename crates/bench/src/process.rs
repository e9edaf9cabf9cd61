//! Programs that a benchmark starts: each ends with the value that stands for it.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a program may take to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to end when asked to; then it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// In which the kernel counts processor time for programs; the same on all of its architectures.
const TICK: Duration = Duration::from_millis(10);
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` with its output thrown away, and waits until it listens on `address`.
    ///
    /// # Errors
    /// It cannot be started, ends early or never listens.
    pub fn listening(command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        Self::ready(command, || TcpStream::connect(address).is_ok())
    }

    /// Starts `command` with its output thrown away, and waits until `is_ready`.
    ///
    /// # Errors
    /// It cannot be started, ends early or never becomes ready.
    pub fn ready(mut command: Command, mut is_ready: impl FnMut() -> bool) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut process = Self { child };
        let begin = Instant::now();
        while !is_ready() {
            if let Some(status) = process.child.try_wait()? {
                bail!("{} ended at once: {status}", program.display());
            }
            if begin.elapsed() > START_TIMEOUT {
                bail!("{} is not ready after {START_TIMEOUT:?}", program.display());
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it and its children have used since they began.
    ///
    /// # Errors
    /// It has ended.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let mut ticks = 0;
        let mut open = vec![self.child.id()];
        while let Some(id) = open.pop() {
            let read = |name: &str| {
                let path = format!("/proc/{id}/{name}");
                fs::read_to_string(&path).with_context(|| format!("read {path}"))
            };
            // After the name, which may hold anything in its parentheses: the 12th and 13th fields are user and system.
            let stat = read("stat")?;
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
            ticks += fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
            let children = read(&format!("task/{id}/children"))?;
            open.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        Ok(TICK * u32::try_from(ticks)?)
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    /// Asks it to end, since some would leave children or shared memory behind when killed.
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // It fails when the program has ended by itself.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let begin = Instant::now();
        while !self.has_ended() && begin.elapsed() < END_TIMEOUT {
            std::thread::sleep(LOOK_PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that nothing listens on now.
///
/// # Errors
/// There is no free port.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A program of this project, built with optimisation beside the benchmark.
///
/// # Errors
/// It is not there.
pub fn own_program(name: &str) -> anyhow::Result<PathBuf> {
    let bench = std::env::current_exe()?;
    // target/release/deps/<bench> -> target/release/<name>
    let path = bench.parent().and_then(Path::parent).context("the benchmark stands in no folder")?.join(name);
    if path.exists() { Ok(path) } else { bail!("{} is not built: run ./dev bench", path.display()) }
}

/// Memory of a process, with its share of what it has in common with others (proportional set size), in bytes.
///
/// # Errors
/// The process is gone.
pub fn memory_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss line")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("the Pss line has no number")?;
    Ok(kib * 1024)
}
