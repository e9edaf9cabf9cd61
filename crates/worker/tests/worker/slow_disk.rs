//! Jobs that come while nothing can be written down, on the engine in memory.

use crate::{
    jobs::{bench, instance},
    support::{settings_in_memory, start_outside, stop_job},
};
use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};
use wisehosting_domain::{
    login::Login,
    source::{Commit, Source},
};
use wisehosting_protocol::{message::AgentMessage, payload::Job};
use wisehosting_worker::{
    git::{Fetch, GitError},
    health::{Probe, Unhealthy},
    outside::{Machine, Outside, Waiting},
    workspace::Workspace,
};

/// A disk that nothing can be written to, until that is called for.
struct HeldDisk(Arc<Semaphore>);

impl Outside for HeldDisk {
    fn fetch<'a>(
        &'a self,
        fetch: Fetch,
        source: &'a Source,
        login: Option<&'a Login>,
        dir: &'a Path,
    ) -> Waiting<'a, Result<Commit, GitError>> {
        Machine.fetch(fetch, source, login, dir)
    }

    fn probe<'a>(&'a self, probe: &'a Probe, limit: Duration) -> Waiting<'a, Result<(), Unhealthy>> {
        Machine.probe(probe, limit)
    }

    fn remove(&self, workspace: Workspace) -> Waiting<'_, ()> {
        Machine.remove(workspace)
    }

    fn sync(&self, dir: PathBuf) -> Waiting<'_, io::Result<()>> {
        Machine.sync(dir)
    }

    fn write(&self, work: Box<dyn FnOnce() + Send>) -> Waiting<'_, ()> {
        Box::pin(async {
            let _turn = self.0.acquire().await.expect("never closed");
            Machine.write(work).await;
        })
    }
}

#[tokio::test]
async fn jobs_that_find_no_room_while_the_disk_hangs_are_done_when_they_come_again() {
    const MANY: usize = 300;
    let bench = bench();
    let disk = Arc::new(Semaphore::new(0));
    let settings = settings_in_memory(bench.dir.path());
    let outside = HeldDisk(disk.clone());
    let mut worker = start_outside(outside, settings, bench.engine.clone(), bench.dir.path()).await;
    let jobs: Vec<Job> = (0..MANY).map(|_| stop_job(1, instance())).collect();
    for job in &jobs {
        worker.tell(job.clone()).await;
    }
    disk.add_permits(4);
    let mut done = HashSet::new();
    let mut rounds = 0;
    while done.len() < MANY {
        let result = worker.wait("result", |message| match message {
            AgentMessage::JobResult(result) => Some(result.job_id),
            _ => None,
        });
        if let Ok(job) = timeout(Duration::from_secs(2), result).await {
            done.insert(job);
            continue;
        }
        // As with a new connection.
        assert!(rounds > 0 || done.len() < MANY / 2, "{} of them waited", done.len());
        rounds += 1;
        for job in jobs.iter().filter(|job| !done.contains(&job.job_id)) {
            worker.tell(job.clone()).await;
        }
    }
    assert!(rounds > 0, "all of them waited");
}
