//! What becomes of jobs whose worker is silent, or that take too long.
//!
//! A deploy fails with a sentence that says so: nobody can know how far it came, so its instance is stopped as soon as its
//! worker is there. A stop or a delete goes back into the queue, since it must happen. Silence counts only while we
//! listen: after a pause of ours every lease is renewed.

use time::{Duration, OffsetDateTime};
use tokio::time::Instant;
use wisehosting_domain::{
    id::JobId,
    name::Label,
    state::{InstanceState, JobKind, JobState},
};
use wisehosting_node::random;
use wisehosting_protocol::{message::JobCancel, payload::JobRef};
use wisehosting_store::{
    PgConnection, StoreError, deployment_state, instances,
    jobs::{self, Job},
    pool,
};

use crate::{
    hub::job_message,
    nodes::{self, Role},
    state::AppState,
};

/// How long a worker may be silent about a job.
pub const LEASE: Duration = Duration::seconds(30);
/// How often a worker speaks of its jobs.
pub const HEARTBEAT_INTERVAL: Duration = Duration::seconds(10);
/// A worker that missed three heartbeats is silent.
pub const SILENCE_MAX: Duration = Duration::seconds(3 * HEARTBEAT_INTERVAL.whole_seconds());

/// What a worker has not said for so long that it has, it is sent once more: an answer of the database may have been lost, and
/// who would have sent it has not known that it was to.
const ACK_MAX: Duration = Duration::seconds(5);
const CHECK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);
/// If our clock goes on by more than this between two checks, or back, we were stopped or suspended, or it was set: heartbeats
/// may have been missed, and times that were stored say nothing any more.
const PAUSE_MAX: Duration = Duration::seconds(10);
/// After a pause of ours, workers may take this long to connect again: they try every 30 s at least.
const RETURN: Duration = Duration::seconds(30);

/// How long a deploy may take, from the first step that its worker tells of.
pub const DEPLOY_MAX: Duration = Duration::minutes(15);
/// Its worker ends it after that, and says what it was at. One that has not done so by then is given up.
pub const DEPLOY_GRACE: Duration = Duration::minutes(1);
/// How long a deploy may be with its worker before that: it waits for the builds before it.
const WAIT_MAX: Duration = Duration::hours(2);

/// How long a worker may have a job; one that has begun a deploy has [`DEPLOY_MAX`].
#[must_use]
pub fn deadline(kind: JobKind) -> Duration {
    match kind {
        JobKind::Deploy => WAIT_MAX,
        JobKind::Stop | JobKind::Delete => Duration::minutes(2),
    }
}

/// Ends what is overdue.
pub struct Leases {
    state: AppState,
    last_check: Option<OffsetDateTime>,
    /// The same, by what nobody can set.
    last_look: Instant,
}

impl Leases {
    /// Begins to watch.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        Self { state, last_check: None, last_look: Instant::now() }
    }

    /// While they are locked, none of them can end: its worker would begin it anew.
    async fn send_again(&self, conn: &mut PgConnection, now: OffsetDateTime) -> Result<(), StoreError> {
        // A worker that connects is sent all of them.
        let Some(last_check) = self.last_check else { return Ok(()) };
        for job in jobs::lock_unacknowledged(conn, last_check - ACK_MAX..now - ACK_MAX).await? {
            if let (Some(worker), Ok(Some(message))) =
                (&job.worker, job_message(&job, &self.state.secrets.keys))
                && self.state.hub.send(worker, message).is_ok()
            {
                tracing::debug!(job.id = %job.id, worker.name = %worker, "a job is sent again");
            }
        }
        Ok(())
    }

    /// Whether the job's worker may ever come back.
    fn is_declared(&self, job: &Job) -> bool {
        job.worker.as_ref().is_some_and(|name| nodes::address(&self.state, Role::Worker, name).is_some())
    }
}

impl crate::tasks::Reconciler for Leases {
    const NAME: &'static str = "leases";

    async fn reconcile(&mut self) -> Result<std::time::Duration, StoreError> {
        let now = self.state.clock.now();
        let mut transaction = pool::begin(&self.state.pool).await?;
        // What passed while this program did not run, nobody knows.
        let step = self.last_check.map_or(Duration::ZERO, |last| now - last);
        if self.last_check.is_none() || step.abs() > PAUSE_MAX {
            // What was given to workers meanwhile, if the clock was set just after the last check.
            let given = now - self.last_look.elapsed()..=now;
            jobs::renew_leases(&mut transaction, now + RETURN + LEASE, step, given).await?;
            jobs::end_waits(&mut transaction).await?;
        }
        let overdue = jobs::lock_overdue(&mut transaction, now).await?;
        for job in &overdue {
            end(&mut transaction, job, self.is_declared(job), now).await?;
        }
        self.send_again(&mut transaction, now).await?;
        pool::commit(transaction).await?;
        (self.last_check, self.last_look) = (Some(now), Instant::now());
        for job in &overdue {
            tracing::warn!(job.id = %job.id, job.kind = %job.kind, app.name = %job.app.1, "a job is overdue");
            if let Some(worker) = &job.worker {
                // It may be gone; if it comes back, it is told then.
                let _ = self.state.hub.send(worker, JobCancel(JobRef { job_id: job.id }));
            }
        }
        if !overdue.is_empty() {
            self.state.signals.jobs.notify_one();
        }
        Ok(CHECK_INTERVAL)
    }
}

async fn end(
    conn: &mut PgConnection,
    job: &Job,
    may_come_back: bool,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let reason = reason(job, now);
    if matches!(job.kind, JobKind::Stop | JobKind::Delete) {
        return jobs::retry(conn, job.id, &reason, now).await;
    }
    jobs::finish(conn, job.id, JobState::Failed, Some(&reason), now).await?;
    match job.instance_id {
        // The worker may be at work on it all the same, or have it up already.
        Some(id) if may_come_back => jobs::enqueue_stop(conn, JobId(random::uuid()), id, now).await?,
        Some(id) => instances::set_state(conn, id, InstanceState::Failed).await?,
        None => {}
    }
    deployment_state::fail(conn, job.deployment_id, &reason, now).await.map(|_| ())
}

fn reason(job: &Job, now: OffsetDateTime) -> String {
    if job.run.deadline_at.is_some_and(|deadline| deadline < now) {
        let (minutes, hours) = (DEPLOY_MAX.whole_minutes(), WAIT_MAX.whole_hours());
        return format!(
            "It took longer than {minutes} minutes, or had to wait for {hours} hours. Make the build faster, or try again."
        );
    }
    let (worker, seconds) = (job.worker.as_ref().map_or("?", Label::as_str), LEASE.whole_seconds());
    format!("Worker {worker} was lost: nothing was heard of the job for {seconds} s. Deploy again.")
}
