//! Builds that run, and which of them has to end when the disk fills up. A build begins when its repository is fetched: a small pack
//! may unpack to much.
//!
//! The one that has written most ends, as far as that is known: what its steps write is counted, what Podman pulls and copies for
//! it is not. Of those alike it is the newest. Invariant: they end one at a time, and the next only when the last has had time to give back what it wrote.

use super::{Full, free_bytes, size_bytes};
use crate::host::Host;
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use wisehosting_containers::{Engine, EngineError};

/// How often to look. A disk is not filled within a moment.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What a build that was ended takes to give its room back, at most.
const GIVE_BACK: Duration = Duration::from_secs(15);

/// This part of the disk that repositories are unpacked on has to stay free, at most.
const WORK_PART: u64 = 8;

/// The builds that run, the newest last.
#[derive(Debug, Default)]
pub(super) struct Builds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    names: Vec<String>,
    /// Until then the last that was ended is giving its room back.
    spared_until: Option<Instant>,
}

impl Builds {
    /// Waits until there is enough, or no build that was ended is still giving its room back.
    pub(super) async fn give_back(&self, enough: impl Fn() -> bool) {
        while !enough() && self.state().is_giving_back(Instant::now()) {
            sleep(LOOK_EVERY).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether this is the build that has to end now. `written`: what each has written.
    fn has_to_end(&mut self, name: &str, now: Instant, written: impl Fn(&str) -> u64) -> bool {
        if self.is_giving_back(now) {
            return false;
        }
        // Of those that have written the same, as where nobody counts it, the last.
        let most = self.names.iter().max_by_key(|name| written(name));
        let ends = most.is_some_and(|most| most == name);
        if ends {
            self.spared_until = Some(now + GIVE_BACK);
        }
        ends
    }

    fn is_giving_back(&self, now: Instant) -> bool {
        self.spared_until.is_some_and(|until| now < until)
    }
}

/// A build that runs, for as long as this value is there.
pub(crate) struct Building<'a, E> {
    host: &'a Host<E>,
    name: String,
    storage: PathBuf,
    workspace: PathBuf,
}

impl<'a, E: Engine> Building<'a, E> {
    /// A build of this name in this folder.
    pub(crate) async fn begin(host: &'a Host<E>, name: &str, workspace: &Path) -> Result<Self, EngineError> {
        let storage = host.engine.storage().await?.dir;
        host.space.builds.state().names.push(name.to_owned());
        Ok(Self { host, name: name.to_owned(), storage, workspace: workspace.to_owned() })
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether this build, which has failed, lacked room. What it wrote is gone a little later.
    pub(crate) fn failed_full(&self) -> Option<Full> {
        let full = self.full();
        if full.is_some() {
            self.host.space.builds.state().spared_until = Some(Instant::now() + GIVE_BACK);
        }
        full
    }

    fn full(&self) -> Option<Full> {
        let needed_bytes = self.host.settings.space.free_min_bytes / 2;
        // Most often that is the same disk; another one may be so small that it never has as much.
        let needed_for_work = needed_bytes.min(size_bytes(&self.workspace) / WORK_PART);
        let lacks = |dir: &Path, needed_bytes| {
            let free_bytes = free_bytes(dir);
            (free_bytes < needed_bytes).then_some(Full { free_bytes, needed_bytes })
        };
        lacks(&self.storage, needed_bytes).or_else(|| lacks(&self.workspace, needed_for_work))
    }

    /// Waits until this build has to end for want of room.
    pub(crate) async fn filled(&self) -> Full {
        loop {
            sleep(LOOK_EVERY).await;
            let Some(full) = self.full() else { continue };
            let written = |name: &str| self.host.engine.build_written_bytes(name);
            if self.host.space.builds.state().has_to_end(&self.name, Instant::now(), written) {
                return full;
            }
        }
    }
}

impl<E> Drop for Building<'_, E> {
    fn drop(&mut self) {
        self.host.space.builds.state().names.retain(|name| *name != self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_that_has_written_most_ends_and_the_others_are_given_time() {
        let names = ["small", "large", "new"].map(str::to_owned).to_vec();
        let mut state = State { names, spared_until: None };
        let written = |name: &str| if name == "large" { 9 } else { 1 };
        let now = Instant::now();
        assert!(!state.has_to_end("small", now, written));
        assert!(!state.has_to_end("new", now, written));
        assert!(state.has_to_end("large", now, written));
        state.names.retain(|name| name != "large");
        assert!(!state.has_to_end("new", now + GIVE_BACK / 2, written), "its room is not there yet");
        assert!(!state.has_to_end("small", now + GIVE_BACK, written));
        assert!(state.has_to_end("new", now + GIVE_BACK, written), "the newest of those alike");
    }
}
