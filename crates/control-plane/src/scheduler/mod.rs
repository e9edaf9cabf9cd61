//! The scheduler: gives each job that may begin to the worker that suits it best, and calls off what is to end.
//!
//! What cannot be placed now stays queued and says what it waits for. A job is given away in one transaction and sent
//! after that; should the worker be gone by then, it gets the job when it connects again.

pub mod leases;

use std::{collections::HashSet, error::Error, time::Duration};

use time::OffsetDateTime;
use wisehosting_domain::{
    id::{InstanceId, JobId},
    name::Label,
    placement::{self, NoPlace, Search},
    state::JobKind,
};
use wisehosting_node::random;
use wisehosting_protocol::{
    message::JobCancel,
    payload::{self, JobRef},
};
use wisehosting_store::{
    PgConnection, StoreError,
    instances::{self, NewInstance},
    jobs::{self, Content, Job, Ready, Run, Turn},
    pool, workers,
};

use crate::{
    hub::{Unreadable, job_failed, job_message},
    state::AppState,
    workers::health::WorkerHealth,
};

/// A job that nobody told of is seen after this long.
const INTERVAL: Duration = Duration::from_secs(10);

/// Jobs that are looked at in one transaction: many that wait cost little, and none is sent long after it was chosen for.
const STEP: u32 = 16;

/// Gives jobs to workers.
pub struct Scheduler {
    state: AppState,
    /// The jobs whose workers were told that they are called off.
    told: HashSet<JobId>,
}

impl crate::tasks::Reconciler for Scheduler {
    const NAME: &'static str = "scheduler";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        self.tell_cancelled().await?;
        let mut walk = Walk::default();
        while self.assign_some(&mut walk).await? {}
        Ok(INTERVAL)
    }
}

/// One way through the queue.
#[derive(Default)]
struct Walk {
    /// The last job that was looked at.
    after: Option<Turn>,
    /// Why the last deploy that must wait found no place. What becomes free meanwhile begins another walk.
    refused: Option<NoPlace>,
}

impl Scheduler {
    /// A scheduler that begins now.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        Self { state, told: HashSet::new() }
    }

    /// Tells workers once what was called off. One that is away is told when it is back.
    async fn tell_cancelled(&mut self) -> Result<(), StoreError> {
        let mut connection = pool::acquire(&self.state.pool).await?;
        let called_off = jobs::called_off(&mut connection).await?;
        for (job_id, worker) in called_off.iter().filter(|(job_id, _)| !self.told.contains(job_id)) {
            let _ = self.state.hub.send(worker, JobCancel(JobRef { job_id: *job_id }));
        }
        self.told = called_off.into_iter().map(|(job_id, _)| job_id).collect();
        Ok(())
    }

    /// Gives away what can be placed of the next jobs; says whether there were any.
    async fn assign_some(&self, walk: &mut Walk) -> Result<bool, StoreError> {
        let mut transaction = pool::begin(&self.state.pool).await?;
        // Now that the wait for a connection is over: leases begin here.
        let now = self.state.clock.now();
        let mut connected = jobs::waited_for(&mut transaction).await?;
        connected.retain(|worker| self.state.hub.is_connected(worker));
        let ready = jobs::lock_ready(&mut transaction, &connected, walk.after, STEP, now).await?;
        let Some(last) = ready.last() else { return Ok(false) };
        walk.after = Some(last.turn);
        let mut assigned = Vec::new();
        for Ready { mut job, waits_for, .. } in ready {
            let chosen = match (&job.worker, &job.content) {
                (Some(worker), _) => Ok(worker.clone()),
                (None, Ok(content)) => self.choose(&mut transaction, walk, content, now).await?,
                (None, Err(unreadable)) => {
                    give_up(&mut transaction, &job, unreadable.clone().into(), now).await?;
                    continue;
                }
            };
            match chosen {
                Ok(worker) => {
                    assign(&mut transaction, &mut job, worker, now).await?;
                    assigned.extend(self.message(&mut transaction, job, now).await?);
                }
                Err(reason) => wait(&mut transaction, &job, waits_for, reason.to_string()).await?,
            }
        }
        pool::commit(transaction).await?;
        for (job, message) in assigned {
            self.send(&job, message);
        }
        Ok(true)
    }

    /// The worker for a deploy, or why there is none now.
    async fn choose(
        &self,
        conn: &mut PgConnection,
        walk: &mut Walk,
        content: &Content,
        now: OffsetDateTime,
    ) -> Result<Result<Label, NoPlace>, StoreError> {
        let limits = &content.settings.limits;
        if let Some(refused) = walk.refused.as_ref().and_then(|refused| refused.holds_for(limits)) {
            return Ok(Err(refused));
        }
        let outlines = self.state.hub.stats().outlines(self.state.hub.workers(), now);
        let image_at = content.image.as_ref().map(|image| &image.worker);
        let mut search = Search::new(&outlines, limits, image_at);
        loop {
            let names = search.next_step();
            if names.is_empty() {
                let chosen = search.end().map(|worker| worker.name.clone());
                if let Err(refused) = &chosen {
                    walk.refused = Some(refused.clone());
                }
                return Ok(chosen);
            }
            let workers = workers::among(conn, &names).await?;
            let fit = workers.into_iter().filter(|worker| !worker.draining);
            search.look(fit.map(|worker| self.candidate(worker, now)));
        }
    }

    /// What to tell the worker of an assigned job; none if that cannot be read: then the job has failed.
    async fn message(
        &self,
        conn: &mut PgConnection,
        job: Job,
        now: OffsetDateTime,
    ) -> Result<Option<(Job, Option<payload::Job>)>, StoreError> {
        match job_message(&job, &self.state.secrets.keys) {
            Ok(message) => Ok(Some((job, message))),
            Err(unreadable) => give_up(conn, &job, unreadable, now).await.map(|()| None),
        }
    }

    fn candidate(&self, worker: workers::Worker, now: OffsetDateTime) -> placement::Worker {
        let connected = self.state.hub.is_connected(&worker.name);
        let health = WorkerHealth::of(connected, worker.last_seen_at, now);
        let host = self.state.hub.stats().host(&worker.name, now);
        placement::Worker {
            name: worker.name,
            connected: health == WorkerHealth::Connected,
            capacity: worker.capacity,
            promised: worker.used,
            starting: worker.starting,
            load: host.map(|host| host.load),
            disk_full: host.is_some_and(|host| host.is_disk_full()),
        }
    }

    fn send(&self, job: &Job, message: Option<payload::Job>) {
        let (Some(worker), Some(message)) = (&job.worker, message) else { return };
        tracing::info!(job.id = %job.id, job.kind = %job.kind, app.name = %job.app.1, worker.name = %worker, "job assigned");
        if self.state.hub.send(worker, message).is_err() {
            tracing::warn!(job.id = %job.id, worker.name = %worker, "the worker has just gone; it gets the job when it is back");
        }
    }
}

/// Ends a job that no worker can be given.
async fn give_up(
    conn: &mut PgConnection,
    job: &Job,
    why: Unreadable,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    tracing::warn!(job.id = %job.id, app.name = %job.app.1, error = &why as &dyn Error, "a job cannot be given to its worker");
    job_failed(conn, job, &why.to_string(), now).await
}

/// Writes down what a job waits for, if that is news.
async fn wait(
    conn: &mut PgConnection,
    job: &Job,
    before: Option<String>,
    reason: String,
) -> Result<(), StoreError> {
    if before.as_ref() == Some(&reason) {
        return Ok(());
    }
    tracing::info!(job.id = %job.id, app.name = %job.app.1, reason, "a job waits");
    jobs::waits_for(conn, job.id, &reason).await
}

/// Writes down that `worker` has the job now.
async fn assign(
    conn: &mut PgConnection,
    job: &mut Job,
    worker: Label,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let instance_id = job.instance_id.unwrap_or_else(|| InstanceId(random::uuid()));
    if let (JobKind::Deploy, Ok(content)) = (job.kind, &job.content) {
        let (deployment_id, limits) = (job.deployment_id, content.settings.limits);
        let instance = NewInstance { id: instance_id, deployment_id, worker: &worker, limits };
        instances::create(conn, &instance, now).await?;
    }
    let run = Run {
        deadline_at: Some(now + leases::deadline(job.kind)),
        lease_expires_at: Some(now + leases::LEASE),
        acked: false,
        cancel_requested: false,
    };
    jobs::start(conn, job.id, &worker, instance_id, now, run).await?;
    (job.instance_id, job.worker, job.run) = (Some(instance_id), Some(worker), run);
    Ok(())
}
