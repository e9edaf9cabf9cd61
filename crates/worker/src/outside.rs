//! What a deploy reaches besides the engine: repositories, the program's answers, the disk.
//!
//! Invariant: nothing else of a worker waits for anything but its engine, its timers and the control plane, so in a world
//! where this is simulated, too, a worker does the same things each time.

use crate::{
    git::{Fetch, GitError},
    health::{Probe, Unhealthy},
    workspace::Workspace,
};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};
use tokio::task::spawn_blocking;
use wisehosting_domain::{
    login::Login,
    source::{Commit, Source},
};

/// What is waited for.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a deploy reaches besides the engine.
pub trait Outside: Send + Sync + 'static {
    /// As [`Fetch::run`].
    fn fetch<'a>(
        &'a self,
        fetch: Fetch,
        source: &'a Source,
        login: Option<&'a Login>,
        dir: &'a Path,
    ) -> Waiting<'a, Result<Commit, GitError>>;

    /// Tries until it is answered well; after `limit`, says what the last attempt came to.
    fn probe<'a>(&'a self, probe: &'a Probe, limit: Duration) -> Waiting<'a, Result<(), Unhealthy>>;

    /// Removes a workspace. Where this is not waited for, dropping removes it.
    fn remove(&self, workspace: Workspace) -> Waiting<'_, ()>;

    /// Waits until all that was written to the file system of this folder is on its disk.
    fn sync(&self, dir: PathBuf) -> Waiting<'_, io::Result<()>>;

    /// Does what writes much, and waits for the disk, where it holds up nobody else.
    fn write(&self, work: Box<dyn FnOnce() + Send>) -> Waiting<'_, ()>;
}

/// This machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl Outside for Machine {
    fn fetch<'a>(
        &'a self,
        fetch: Fetch,
        source: &'a Source,
        login: Option<&'a Login>,
        dir: &'a Path,
    ) -> Waiting<'a, Result<Commit, GitError>> {
        Box::pin(async move { fetch.run(source, login, dir).await })
    }

    fn probe<'a>(&'a self, probe: &'a Probe, limit: Duration) -> Waiting<'a, Result<(), Unhealthy>> {
        Box::pin(probe.wait(limit))
    }

    fn remove(&self, workspace: Workspace) -> Waiting<'_, ()> {
        self.write(Box::new(move || drop(workspace)))
    }

    fn sync(&self, dir: PathBuf) -> Waiting<'_, io::Result<()>> {
        let sync = move || nix::unistd::syncfs(File::open(dir)?).map_err(io::Error::from);
        Box::pin(async { spawn_blocking(sync).await? })
    }

    fn write(&self, work: Box<dyn FnOnce() + Send>) -> Waiting<'_, ()> {
        // A task that panicked has said so itself.
        Box::pin(async { drop(spawn_blocking(work).await) })
    }
}
