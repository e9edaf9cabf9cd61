//! The control group in which the steps of one build run.
//!
//! Podman ends a build whose client has gone, but lets the step that is running go on to its own end, which may never
//! come; and it bounds a step's memory, but not its processes. Invariant: a build never has more processes than it was
//! given, and when a value of this type is dropped, neither a process nor a group of the build is left.

use super::build_slice;
use crate::engine::Build;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const MOUNT: &str = "/sys/fs/cgroup";
/// A step that forks while it is being ended is met again this often at most.
const ROUNDS_MAX: usize = 200;
const ROUND: Duration = Duration::from_millis(1);

pub(super) struct BuildCgroup {
    /// The group above, which all builds share.
    slice: String,
    name: String,
    /// Where processes are listed and bounded.
    dir: PathBuf,
}

impl BuildCgroup {
    pub(super) fn new(slice: &str, build: &Build) -> Self {
        let cgroup = Self::left_by(slice, &build.name);
        let made = build_slice::make_group(slice, &cgroup.name, build.bounds);
        let bounded = made
            .and_then(|()| fs::write(cgroup.dir.join("pids.max"), build.bounds.processes_max.to_string()));
        if let Err(error) = bounded {
            tracing::warn!(cgroup = %cgroup.dir.display(), %error, "the processes of a build are not bounded");
        }
        cgroup
    }

    /// The group of a build whose program was killed, if there is one.
    pub(super) fn left_by(slice: &str, build: &str) -> Self {
        let name = build_slice::group_of(build);
        let dir = build_slice::counting().join(slice).join(&name);
        Self { slice: slice.to_owned(), name, dir }
    }

    /// Whether the build has had as many processes as it may.
    pub(super) fn is_full(&self) -> bool {
        let count = |file| fs::read_to_string(self.dir.join(file)).ok()?.trim().parse::<u32>().ok();
        // A kernel before 6.1 does not tell; then the step's own words must do.
        matches!((count("pids.peak"), count("pids.max")), (Some(peak), Some(max)) if peak >= max)
    }

    /// The group of a step, below the root of each hierarchy. What bounds its parent bounds it.
    pub(super) fn path(&self) -> String {
        format!("/{}/{}/step", self.slice, self.name)
    }
}

impl Drop for BuildCgroup {
    fn drop(&mut self) {
        let groups: Vec<PathBuf> = build_slice::hierarchies(Path::new(MOUNT))
            .into_iter()
            .map(|hierarchy| hierarchy.join(&self.slice).join(&self.name))
            .collect();
        if let Err(error) = end_all(&groups) {
            tracing::warn!(cgroup = %self.dir.display(), %error, "a build's control groups cannot be removed");
        }
        build_slice::remove(&self.slice);
    }
}

/// Ends what runs in the groups, and removes them. A process that is only now put into them is in some earlier than in others.
fn end_all(groups: &[PathBuf]) -> io::Result<()> {
    let mut removed = Ok(());
    for _ in 0..ROUNDS_MAX {
        for group in groups {
            // What cannot be read cannot be removed either, which is told.
            for process in processes(&group.join("step")).unwrap_or_default() {
                // It fails for those that have ended since they were listed.
                let _ = kill(process, Signal::SIGKILL);
            }
        }
        removed = groups.iter().try_for_each(|group| {
            remove(&group.join("step"))?;
            remove(group)
        });
        if removed.is_ok() {
            break;
        }
        thread::sleep(ROUND);
    }
    removed
}

/// Removes an empty group. A hierarchy in which no step ever was has none.
fn remove(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn processes(dir: &Path) -> io::Result<Vec<Pid>> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw).collect())
}

/// Between two steps there is no group.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}
