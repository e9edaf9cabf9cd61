//! Repositories and programs: what users bring, which is good mostly.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::sleep;
use wisehosting_domain::{
    login::Login,
    source::{Commit, Source},
};
use wisehosting_worker::{
    git::{Fetch, GitError},
    health::{Probe, Unhealthy},
    outside::{Outside, Waiting},
    workspace::Workspace,
};

use crate::{engine::SimulatedEngine, random::Random};

pub(crate) struct SimulatedOutside {
    pub(crate) engine: SimulatedEngine,
    pub(crate) random: Arc<Mutex<Random>>,
    /// From some time on, whatever is fetched is good.
    pub(crate) all_good: Arc<AtomicBool>,
}

impl SimulatedOutside {
    fn below(&self, limit: u64) -> u64 {
        self.random.lock().unwrap().below(limit)
    }

    async fn pass(&self, longest_ms: u64) {
        let wait_ms = self.below(longest_ms);
        sleep(Duration::from_millis(wait_ms)).await;
    }

    fn is_bad(&self, once_in: u64) -> bool {
        self.below(once_in) == 0 && !self.all_good.load(Ordering::Relaxed)
    }
}

impl Outside for SimulatedOutside {
    fn fetch<'a>(
        &'a self,
        _: Fetch,
        source: &'a Source,
        _: Option<&'a Login>,
        dir: &'a Path,
    ) -> Waiting<'a, Result<Commit, GitError>> {
        Box::pin(async move {
            // Some take longer than a lease.
            let is_large = self.below(8) == 0;
            self.pass(if is_large { 90_000 } else { 3_000 }).await;
            if self.is_bad(12) {
                return Err(GitError::Empty(source.repository.clone()));
            }
            let bad_program = if self.is_bad(12) { "RUN exit 1\n" } else { "" };
            let program = if self.is_bad(12) { "exit 3" } else { "serve" };
            let tree = dir.join("source");
            fs::create_dir_all(&tree).unwrap();
            let text = format!("FROM scratch\n{bad_program}EXPOSE 8080\nCMD {program}\n");
            fs::write(tree.join("Dockerfile"), text).unwrap();
            Ok(source
                .commit
                .clone()
                .unwrap_or_else(|| format!("{:040x}", self.below(u64::MAX)).parse().unwrap()))
        })
    }

    fn probe<'a>(&'a self, probe: &'a Probe, limit: Duration) -> Waiting<'a, Result<(), Unhealthy>> {
        Box::pin(async move {
            if self.is_bad(15) {
                sleep(limit).await;
                return Err(Unhealthy::Silent);
            }
            self.pass(2_000).await;
            if self.engine.accepts(probe.address) {
                return Ok(());
            }
            sleep(limit).await;
            Err(Unhealthy::Refused)
        })
    }

    fn remove(&self, workspace: Workspace) -> Waiting<'_, ()> {
        drop(workspace);
        Box::pin(self.pass(100))
    }

    fn sync(&self, _: PathBuf) -> Waiting<'_, io::Result<()>> {
        Box::pin(self.pass(100).map(Ok))
    }

    fn write(&self, work: Box<dyn FnOnce() + Send>) -> Waiting<'_, ()> {
        work();
        Box::pin(self.pass(100))
    }
}
