//! The control group in which the steps of one build run.
//!
//! Podman ends a build whose client has gone, but lets the step that is running go on to its own end, which may never
//! come, and may have been about to begin one more, for which its runtime makes the groups anew; and it bounds a step's
//! memory, but not its processes. Invariants: a build never has more processes than it was given; when a value of this type
//! is dropped, neither a process nor a group of the build is left, and what comes after that is ended, too.

use super::build_slice;
use crate::engine::BuildBounds;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::HashSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

const MOUNT: &str = "/sys/fs/cgroup";
const PIDS_MAX: &str = "pids.max";
/// A step that is being put into its groups while it is ended is met again this often at most.
const ROUNDS_MAX: usize = 200;
const ROUND: Duration = Duration::from_millis(1);
/// After its client has gone, Podman begins no more than the step that it was preparing, which takes it a second.
const LATE: Duration = Duration::from_secs(120);
/// How often such a step is looked for.
const LATE_LOOK: Duration = Duration::from_millis(50);

/// The names of the builds that run. Held by who makes or ends groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Live(Arc<Mutex<HashSet<String>>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct BuildCgroup {
    groups: Groups,
    live: Live,
    /// Whether Podman is known to begin no more steps.
    has_ended: bool,
}

/// The groups of a build.
#[derive(Clone)]
struct Groups {
    /// The group above, which all builds share.
    slice: String,
    name: String,
    /// Where processes are listed and bounded.
    dir: PathBuf,
}

impl BuildCgroup {
    pub(super) fn new(slice: &str, live: &Live, build: &str, bounds: BuildBounds) -> Self {
        let cgroup = Self::left_by(slice, live, build);
        let groups = &cgroup.groups;
        let mut names = live.lock();
        names.insert(groups.name.clone());
        let made = build_slice::make_group(slice, &groups.name, bounds);
        let bounded =
            made.and_then(|()| fs::write(groups.dir.join(PIDS_MAX), bounds.processes_max.to_string()));
        if let Err(error) = bounded {
            tracing::warn!(cgroup = %groups.dir.display(), %error, "the processes of a build are not bounded");
        }
        drop(names);
        cgroup
    }

    /// The group of a build whose program was killed, if there is one.
    pub(super) fn left_by(slice: &str, live: &Live, build: &str) -> Self {
        let name = build_slice::group_of(build);
        let dir = build_slice::counting().join(slice).join(&name);
        Self { groups: Groups { slice: slice.to_owned(), name, dir }, live: live.clone(), has_ended: false }
    }

    /// Makes a group inside for what is not Podman's, bounded as a step is, in each hierarchy that can bound it.
    pub(super) fn make_inner(&self, name: &str, bounds: BuildBounds) -> io::Result<Vec<PathBuf>> {
        build_slice::make_inner(&self.groups.slice, &self.groups.name, name, bounds)
    }

    /// Podman has ended the build.
    pub(super) fn ended(&mut self) {
        self.has_ended = true;
    }

    /// Whether the build has had as many processes as it may.
    pub(super) fn is_full(&self) -> bool {
        let count = |file| fs::read_to_string(self.groups.dir.join(file)).ok()?.trim().parse::<u32>().ok();
        // A kernel before 6.1 does not tell; then the step's own words must do.
        matches!((count("pids.peak"), count(PIDS_MAX)), (Some(peak), Some(max)) if peak >= max)
    }

    /// The group of a step, below the root of each hierarchy. What bounds its parent bounds it.
    pub(super) fn path(&self) -> String {
        format!("/{}/{}/step", self.groups.slice, self.groups.name)
    }
}

impl Drop for BuildCgroup {
    fn drop(&mut self) {
        let mut names = self.live.lock();
        names.remove(&self.groups.name);
        self.groups.end();
        drop(names);
        if self.has_ended {
            return;
        }
        let (groups, live) = (self.groups.clone(), self.live.clone());
        let watching =
            thread::Builder::new().name("late-steps".to_owned()).spawn(move || groups.end_late(&live));
        if let Err(error) = watching {
            tracing::warn!(cgroup = %self.groups.dir.display(), %error, "nobody looks for a late step of a build");
        }
    }
}

impl Groups {
    /// Ends the build's processes and removes its groups.
    fn end(&self) {
        let groups: Vec<PathBuf> = build_slice::hierarchies(Path::new(MOUNT))
            .into_iter()
            .map(|hierarchy| hierarchy.join(&self.slice).join(&self.name))
            .collect();
        if let Err(error) = end_all(&groups) {
            tracing::warn!(cgroup = %self.dir.display(), %error, "a build's control groups cannot be removed");
        }
        build_slice::remove(&self.slice);
    }

    /// Does so again when they come back, unless there is another build of this name.
    fn end_late(&self, live: &Live) {
        let began = Instant::now();
        while began.elapsed() < LATE {
            thread::sleep(LATE_LOOK);
            let names = live.lock();
            if names.contains(&self.name) {
                break;
            }
            if self.dir.exists() {
                self.end();
            }
        }
    }
}

/// Ends what runs in the groups, and removes them. A process that is only now put into them is in some earlier than in others.
fn end_all(groups: &[PathBuf]) -> io::Result<()> {
    let mut removed = Ok(());
    for _ in 0..ROUNDS_MAX {
        for group in groups {
            // Each hierarchy has one of them or none: so that they do not multiply meanwhile, and all at once where the kernel can.
            let _ = write_if_there(&group.join(PIDS_MAX), "0");
            let _ = write_if_there(&group.join("cgroup.kill"), "1");
            for process in below(group).iter().flat_map(|dir| processes(dir)) {
                // It fails for those that have ended since they were listed.
                let _ = kill(process, Signal::SIGKILL);
            }
        }
        removed = groups.iter().flat_map(|group| below(group)).try_for_each(|group| remove(&group));
        if removed.is_ok() {
            break;
        }
        thread::sleep(ROUND);
    }
    removed
}

/// A group and those in it, each after those in it. A step may have made some of its own.
fn below(group: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(group).into_iter().flatten().flatten();
    let inside = inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    inside.flat_map(|entry| below(&entry.path())).chain([group.to_owned()]).collect()
}

/// Opening a file of a group never makes one.
pub(super) fn write_if_there(file: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// Removes an empty group. A hierarchy in which no step ever was has none.
fn remove(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What cannot be read cannot be removed either, which is told.
fn processes(dir: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw).collect()
}
