//! A host: a set of namespaces, the process 1 that lives in them, and a thread of ours that stands in them too.
//!
//! The thread (the *keeper*) unshares the namespaces and starts process 1. Whatever it starts afterwards is a child of
//! the lab's process and yet a process of the host: standard streams, exit status and signals need no relay.
//! Invariants: the keeper lives as long as the host, since the kernel ties process 1 to the thread that started it;
//! and the keeper never starts a thread, since a thread cannot be born into another process namespace.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};

use wisehosting_network::NetworkNamespace;

use crate::{
    cgroups::Hierarchies,
    init::{HostSpec, READY},
};

/// Work for the keeper, which notes in the list the children that it will have to reap.
type Task = Box<dyn FnOnce(&mut Vec<Pid>) + Send>;

/// The namespaces that the keeper unshares; process 1 adds the control group namespace.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC);

/// How often the keeper looks whether a host that is told to end has ended.
const REAP_PAUSE: Duration = Duration::from_millis(5);

/// Why a host could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused the namespaces.
    #[error("cannot create the namespaces of host {host}; the lab needs root and a kernel with namespaces")]
    Namespaces {
        /// Name of the host.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Process 1 did not start.
    #[error("cannot start the first process of host {host}")]
    Init {
        /// Name of the host.
        host: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// Process 1 started and gave up.
    #[error("host {host} could not be laid out: {reason}")]
    Layout {
        /// Name of the host.
        host: String,
        /// What process 1 said.
        reason: String,
    },
    /// A program of the host did not start.
    #[error("cannot start {program} in host {host}")]
    Spawn {
        /// Name of the host.
        host: String,
        /// The program's path.
        program: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// The host has ended.
    #[error("host {host} has ended")]
    Ended {
        /// Name of the host.
        host: String,
    },
}

/// A running host. Dropping it ends every process in it, without waiting.
#[derive(Debug)]
pub struct Host {
    spec: HostSpec,
    hierarchies: Hierarchies,
    init: Pid,
    network: NetworkNamespace,
    keeper: Option<Keeper>,
}

#[derive(Debug)]
struct Keeper {
    tasks: mpsc::Sender<Task>,
    thread: JoinHandle<io::Result<ExitStatus>>,
}

impl Host {
    /// Starts a host. `init` runs [`crate::init::run`] when it is called with `lab-init` and a [`HostSpec`] as JSON.
    /// Blocks until the host is laid out.
    pub fn start(spec: HostSpec, init: &Path) -> Result<Self, HostError> {
        let host = spec.name.clone();
        let namespaces = |source| HostError::Namespaces { host: host.clone(), source };
        let hierarchies = Hierarchies::of_this_machine().map_err(namespaces)?;
        let (tasks, queue) = mpsc::channel::<Task>();
        let (report, reported) = mpsc::channel();
        let (init, spec_for_keeper) = (init.to_owned(), spec.clone());
        let thread = thread::Builder::new()
            .name(format!("host-{host}"))
            .spawn(move || keep(&spec_for_keeper, &init, &report, queue))
            .map_err(namespaces)?;
        let keeper = Keeper { tasks, thread };
        match reported.recv() {
            Ok(Ok((init, network))) => Ok(Self { spec, hierarchies, init, network, keeper: Some(keeper) }),
            Ok(Err(error)) => {
                let _ = keeper.thread.join();
                Err(error)
            }
            Err(_) => Err(HostError::Ended { host }),
        }
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The host's files on the machine.
    pub fn directory(&self) -> &Path {
        &self.spec.directory
    }

    /// The host's network namespace.
    pub fn network(&self) -> &NetworkNamespace {
        &self.network
    }

    /// Process 1 of the host, as the machine numbers it.
    pub fn init_pid(&self) -> Pid {
        self.init
    }

    /// A path of the host as the machine reaches it, for example a socket on its private `/run`.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init)).join(inside.trim_start_matches('/'))
    }

    /// Runs `work` on the keeper, so inside the host's namespaces (except that the process namespace is that of its
    /// children), and waits for it. `work` must not start threads.
    pub fn run<T, F>(&self, work: F) -> Result<T, HostError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (answer, answered) = mpsc::channel();
        self.send(Box::new(move |_children| {
            let _ = answer.send(work());
        }))?;
        answered.recv().map_err(|_| self.ended())
    }

    /// Makes the host responsible for a child of ours that lives in its process namespace: the namespace ends only
    /// when somebody has reaped it.
    pub(crate) fn take_over(&self, child: &tokio::process::Child) -> Result<(), HostError> {
        if let Some(child) = child_pid(child) {
            self.send(Box::new(move |children| children.push(child)))?;
        }
        Ok(())
    }

    fn send(&self, task: Task) -> Result<(), HostError> {
        let keeper = self.keeper.as_ref().ok_or_else(|| self.ended())?;
        keeper.tasks.send(task).map_err(|_| self.ended())
    }

    fn ended(&self) -> HostError {
        HostError::Ended { host: self.spec.name.clone() }
    }

    /// Starts a program in the host, in the host's control group from its first instruction on. Must be called within
    /// a tokio runtime.
    pub fn spawn(&self, command: tokio::process::Command) -> Result<tokio::process::Child, HostError> {
        self.spawn_with(command, Vec::new())
    }

    /// [`Self::spawn`], and hands descriptors to the program. `command` must not hand over any itself: they could take
    /// the numbers of those by which the process joins its control group.
    pub(crate) fn spawn_with(
        &self,
        mut command: tokio::process::Command,
        descriptors: Vec<FdMapping>,
    ) -> Result<tokio::process::Child, HostError> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let failed =
            |source| HostError::Spawn { host: self.spec.name.clone(), program: program.clone(), source };
        let groups = self.hierarchies.open(&self.spec.cgroup).map_err(failed)?;
        join_before_exec(&mut command, groups);
        command.fd_mappings(descriptors).map_err(|collision| failed(io::Error::other(collision)))?;
        let runtime = tokio::runtime::Handle::current();
        let child = self
            .run(move || {
                let _runtime = runtime.enter();
                command.spawn()
            })?
            .map_err(failed)?;
        self.take_over(&child)?;
        Ok(child)
    }

    /// Runs a program in the host to its end and answers what it printed.
    pub async fn output(&self, mut command: tokio::process::Command) -> Result<Output, HostError> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        self.spawn(command)?.wait_with_output().await.map_err(|source| HostError::Spawn {
            host: self.spec.name.clone(),
            program,
            source,
        })
    }

    /// Ends the host and every process in it, waits for that, and removes its control groups.
    pub async fn stop(mut self) {
        let Some(Keeper { tasks, thread }) = self.keeper.take() else { return };
        drop(tasks);
        let ended = tokio::task::spawn_blocking(move || {
            let _ = thread.join();
            // What stays is removed with the lab's folder, or by its next start.
            let _ = self.hierarchies.remove(&self.spec.cgroup);
        });
        let _ = ended.await;
    }
}

/// The keeper's life: make the namespaces, start process 1, work through the tasks, end process 1.
fn keep(
    spec: &HostSpec,
    init: &Path,
    report: &mpsc::Sender<Result<(Pid, NetworkNamespace), HostError>>,
    tasks: mpsc::Receiver<Task>,
) -> io::Result<ExitStatus> {
    let (mut child, lifeline, network) = match lay_out(spec, init) {
        Ok(laid_out) => laid_out,
        Err(error) => {
            let _ = report.send(Err(error));
            return Err(io::ErrorKind::Other.into());
        }
    };
    let _ = report.send(Ok((pid(&child), network)));
    let mut children = Vec::new();
    for task in tasks {
        task(&mut children);
    }
    drop(lifeline);
    reap(&mut child, &children)
}

/// Waits for the end of process 1, which waits for every other process of the host: also for those children of ours
/// that nobody else waits for any more.
fn reap(init: &mut Child, children: &[Pid]) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = init.try_wait()? {
            return Ok(status);
        }
        for child in children {
            let _ = waitpid(*child, Some(WaitPidFlag::WNOHANG));
        }
        thread::sleep(REAP_PAUSE);
    }
}

/// Has the program's process join the control groups before the program is there: one that is moved later has run, and
/// may have left children, outside of them.
#[expect(unsafe_code, reason = "nothing else runs between fork and exec")]
fn join_before_exec(command: &mut tokio::process::Command, groups: Vec<File>) {
    let join = move || groups.iter().try_for_each(|mut group| group.write_all(b"0"));
    // SAFETY: the closure only writes constant bytes to open files: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(join) };
}

fn child_pid(child: &tokio::process::Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

fn lay_out(spec: &HostSpec, init: &Path) -> Result<(Child, ChildStdin, NetworkNamespace), HostError> {
    let host = || spec.name.clone();
    let network = unshare(NAMESPACES)
        .map_err(io::Error::from)
        .and_then(|()| NetworkNamespace::current().map_err(io::Error::other))
        .map_err(|source| HostError::Namespaces { host: host(), source })?;
    let failed = |source| HostError::Init { host: host(), source };
    let spec_json = serde_json::to_string(spec).map_err(|error| failed(error.into()))?;
    let mut child = std::process::Command::new(init)
        .arg("lab-init")
        .arg(spec_json)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(lifeline), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(io::ErrorKind::BrokenPipe.into()));
    };
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(failed)?;
    if line.trim_end() != READY {
        let _ = child.wait();
        return Err(HostError::Layout { host: host(), reason: line.trim_end().to_owned() });
    }
    // The host's own /proc is mounted by now, so process 1 is found under that number.
    File::open("/proc/1/ns/cgroup")
        .and_then(|namespace| enter(&namespace, CloneFlags::CLONE_NEWCGROUP))
        .map_err(failed)?;
    Ok((child, lifeline, network))
}

fn pid(child: &Child) -> Pid {
    // Process numbers fit: the kernel's limit is 2^22.
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Puts the calling thread, which was made for this, into a namespace for good.
#[expect(clippy::disallowed_methods, reason = "only threads that belong to a host come here")]
pub(crate) fn enter(namespace: &File, kind: CloneFlags) -> io::Result<()> {
    Ok(setns(namespace, kind)?)
}
