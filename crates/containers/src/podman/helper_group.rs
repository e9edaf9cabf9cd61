//! The control group of a program that is not Podman's and works for a build before that begins: git, which unpacks what
//! strangers have made.
//!
//! Invariants: such a program has as much memory and as many processes as a step of the build, inside of the group of all builds;
//! when a value of this type is dropped, neither a process nor a group is left.

use super::build_cgroup::{BuildCgroup, Live, write_if_there};
use crate::engine::BuildBounds;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

const NAME: &str = "helper";

/// A control group that bounds programs; or nothing, where there is none.
#[derive(Default)]
pub struct HelperGroup(Option<Made>);

struct Made {
    /// In each hierarchy that can bound them.
    dirs: Vec<PathBuf>,
    memory_bytes: u64,
    /// The group around it, which goes with all that is in it.
    _build: BuildCgroup,
}

impl HelperGroup {
    /// Bounds nothing.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(slice: &str, live: &Live, build: &str, bounds: BuildBounds) -> Self {
        let mut cgroup = BuildCgroup::new(slice, live, build, bounds);
        // Podman knows nothing of it, and so begins nothing in it later.
        cgroup.ended();
        let dirs = cgroup.make_inner(NAME, bounds).unwrap_or_else(|error| {
            tracing::warn!(%error, "what fetches for a build is not bounded");
            Vec::new()
        });
        Self(Some(Made { dirs, memory_bytes: bounds.memory_bytes, _build: cgroup }))
    }

    /// Takes in a process that has just begun, with all that it has begun itself.
    pub fn take_in(&self, process: u32) {
        let Some(made) = &self.0 else { return };
        for dir in &made.dirs {
            match write_if_there(&dir.join("cgroup.procs"), &process.to_string()) {
                Err(error) if !has_ended(&error) => {
                    tracing::warn!(cgroup = %dir.display(), %error, "what fetches for a build is not bounded");
                }
                _ => {}
            }
        }
        // What it begins from now on is in the group from its beginning.
        children(process).into_iter().for_each(|child| self.take_in(child));
    }

    /// The memory that programs had in it, in bytes, if the kernel has ended one for using more.
    #[must_use]
    pub fn memory_used_up(&self) -> Option<u64> {
        let made = self.0.as_ref()?;
        made.dirs.iter().any(|dir| has_memory_kill(dir)).then_some(made.memory_bytes)
    }
}

impl fmt::Debug for HelperGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HelperGroup").field(&self.0.as_ref().map(|made| &made.dirs)).finish()
    }
}

fn has_ended(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
}

/// Of a process that has ended, or where the kernel does not tell, none.
fn children(process: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// In version 2 and version 1.
fn has_memory_kill(dir: &Path) -> bool {
    ["memory.events", "memory.oom_control"].iter().any(|file| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
    })
}
