//! Reading a container's log, from the file that the engine writes: its API tells times to the second, and misses the end
//! of a container that lives for a moment only.
//!
//! Invariant: what is sent follows on what was sent before, without a line twice; where the engine has replaced a file
//! before it was read, that is said. Who reads slowly keeps two files of a log on the disk, no more.

mod file;
mod rotations;

use super::Podman;
use crate::{
    engine::{ContainerId, ContainerState, EngineError},
    log::{LogBatch, LogPosition},
};
use file::LogFile;
pub(super) use rotations::Rotations;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    pin::pin,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{interval, sleep},
};

/// How long lines are gathered, and how often a log is looked at.
const GATHER: Duration = Duration::from_millis(200);
/// How often to ask the engine whether a container runs whose process is out of sight.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(
    podman: &Podman,
    id: &ContainerId,
    from: LogPosition,
    follow: bool,
    batches: mpsc::Sender<LogBatch>,
) -> Result<(), EngineError> {
    let path = path(podman, id).await?;
    let mut log = LogFile::open(path, from, &podman.rotations).map_err(|e| unreadable(&e))?;
    let mut ended = pin!(ended(podman, id));
    let mut over = !follow;
    loop {
        let all_written = over;
        let (read, batch) = read(log).await?;
        log = read;
        let is_empty = batch.lines.is_empty();
        if !is_empty && !send(&batches, batch, &mut log).await {
            return Ok(());
        }
        if is_empty && all_written {
            break;
        }
        if !over && !log.is_behind() {
            tokio::select! {
                () = &mut ended => over = true,
                () = sleep(GATHER) => {}
            }
        }
    }
    // One that runs may have more to say on the same line.
    if !is_running(podman, id).await
        && let Some(rest) = log.rest()
    {
        send(&batches, rest, &mut log).await;
    }
    Ok(())
}

/// Whether somebody took it. Nobody takes any for as long as he likes; the log is kept an eye on meanwhile.
async fn send(batches: &mpsc::Sender<LogBatch>, batch: LogBatch, log: &mut LogFile) -> bool {
    let mut ticks = interval(GATHER);
    loop {
        tokio::select! {
            biased;
            room = batches.reserve() => return room.map(|room| room.send(batch)).is_ok(),
            _ = ticks.tick() => log.look(),
        }
    }
}

async fn read(mut log: LogFile) -> Result<(LogFile, LogBatch), EngineError> {
    let read = spawn_blocking(move || log.next().map(|batch| (log, batch))).await;
    read.map_err(io::Error::other).flatten().map_err(|e| unreadable(&e))
}

async fn path(podman: &Podman, id: &ContainerId) -> Result<PathBuf, EngineError> {
    let path = podman.inspect(id).await?.log_path.filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| unreadable(&io::ErrorKind::NotFound.into()))
}

/// Waits until the container does not run, or until the engine cannot say. Podman's own way to wait keeps a processor busy for
/// as long as a container runs; the kernel tells for nothing.
async fn ended(podman: &Podman, id: &ContainerId) {
    while let Ok(found) = podman.inspect(id).await
        // One that is being stopped does not count as running, and still has a process.
        && let Some(pid) = found.state.and_then(|state| state.pid).filter(|pid| *pid > 0)
    {
        let Some(process) = process(id, pid) else {
            sleep(LOOK).await;
            continue;
        };
        // What is read of a process that has ended is an error, also if another one has its number meanwhile.
        while process.read_at(&mut [0], 0).is_ok() {
            sleep(GATHER).await;
        }
        // The engine hears of it, and of the last lines, a moment later.
        sleep(GATHER).await;
    }
}

/// The container's process, if the engine counts processes as we do: then its control group has the container's name.
fn process(id: &ContainerId, pid: i64) -> Option<File> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.contains(id.as_str()).then(|| File::open(format!("/proc/{pid}/comm")).ok())?
}

async fn is_running(podman: &Podman, id: &ContainerId) -> bool {
    use crate::engine::Engine as _;
    match podman.container(id).await {
        Ok(found) => found.state == ContainerState::Running,
        Err(EngineError::NoSuchContainer(_)) => false,
        Err(_) => true,
    }
}

fn unreadable(error: &io::Error) -> EngineError {
    EngineError::Refused { operation: "let its log be read", message: error.to_string() }
}
