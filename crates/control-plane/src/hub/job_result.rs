//! How a job ended: stored once, in one transaction with what follows from it, and then acknowledged.
//!
//! A result that comes again changes nothing. One that comes after its job was given up for lost has no effect but one:
//! the instance that it brought up against all expectation is stopped.

use time::{Duration, OffsetDateTime};
use wisehosting_domain::{
    id::{InstanceId, JobId},
    name::Label,
    state::{DeploymentState, InstanceState, JobKind, JobState},
};
use wisehosting_node::random;
use wisehosting_protocol::{
    message::ResultAck,
    payload::{JobRef, JobResult, MESSAGE_CHARS_MAX, Outcome},
};
use wisehosting_store::{
    PgConnection, StoreError, deployment_state, instances,
    jobs::{self, Job},
    pool,
};

use crate::{
    nodes::{self, Role},
    state::AppState,
};

/// When a stop or a delete that went wrong is tried again.
const RETRY_AFTER: Duration = Duration::seconds(30);

/// Stores a result of a worker; the answer, which is due once it is stored, and whether the result is news.
///
/// # Errors
/// The database is away.
pub(super) async fn store(
    state: &AppState,
    worker: &Label,
    result: &JobResult,
) -> Result<(ResultAck, bool), StoreError> {
    let now = state.clock.now();
    let ack = ResultAck(JobRef { job_id: result.job_id });
    let mut transaction = pool::begin(&state.pool).await?;
    let job = jobs::lock(&mut transaction, worker, result.job_id).await?;
    let instance_id = job.as_ref().and_then(|job| job.instance_id);
    let (Some(job), Some(instance_id)) = (job, instance_id) else {
        tracing::warn!(worker.name = %worker, job.id = %result.job_id, "a result of a job that the worker does not have");
        return Ok((ack, false));
    };
    match job.state {
        JobState::Running => {
            tracing::info!(
                job.id = %job.id, job.kind = %job.kind, app.name = %job.app.1, worker.name = %worker,
                outcome = name_of(&result.outcome), "job ended"
            );
            let ended = Ended { job: &job, instance_id, now };
            ended.store(&mut transaction, state, &result.outcome).await?;
        }
        JobState::Failed | JobState::Cancelled => {
            if matches!(result.outcome, Outcome::Deployed { .. }) {
                stop_orphan(&mut transaction, instance_id, now).await?;
            }
        }
        JobState::Pending | JobState::Succeeded => {}
    }
    pool::commit(transaction).await?;
    state.signals.rollout.notify_one();
    state.signals.jobs.notify_one();
    Ok((ack, job.state == JobState::Running))
}

/// Ends a deploy job that failed, and with it its instance and its deployment.
///
/// # Errors
/// The database is away.
pub async fn fail(
    conn: &mut PgConnection,
    job: &Job,
    message: &str,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    jobs::finish(conn, job.id, JobState::Failed, Some(message), now).await?;
    if let Some(instance_id) = job.instance_id {
        instances::set_state(conn, instance_id, InstanceState::Failed).await?;
    }
    deployment_state::fail(conn, job.deployment_id, message, now).await.map(|_| ())
}

/// Stops an instance that runs although its job was given up.
pub(super) async fn stop_orphan(
    conn: &mut PgConnection,
    instance_id: InstanceId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    tracing::warn!(instance.id = %instance_id, "an instance runs although its job was given up: stopping it");
    instances::set_state(conn, instance_id, InstanceState::Failed).await?;
    jobs::enqueue_stop(conn, JobId(random::uuid()), instance_id, now).await
}

/// A running job whose result has come.
struct Ended<'a> {
    job: &'a Job,
    instance_id: InstanceId,
    now: OffsetDateTime,
}

impl Ended<'_> {
    async fn store(
        &self,
        conn: &mut PgConnection,
        state: &AppState,
        outcome: &Outcome,
    ) -> Result<(), StoreError> {
        match (self.job.kind, outcome) {
            (JobKind::Deploy, Outcome::Deployed { commit, image_id, address }) => {
                deployment_state::built(conn, self.job.deployment_id, commit, image_id).await?;
                let worker = self.job.worker.as_ref();
                let own = worker.and_then(|name| nodes::address(state, Role::Worker, name));
                if own != Some(address.ip()) {
                    self.failed(conn, "The worker reported an address that is not its own.").await?;
                    return stop_orphan(conn, self.instance_id, self.now).await;
                }
                if self.job.run.cancel_requested {
                    self.cancelled(conn).await?;
                    return stop_orphan(conn, self.instance_id, self.now).await;
                }
                instances::healthy(conn, self.instance_id, *address).await?;
                jobs::finish(conn, self.job.id, JobState::Succeeded, None, self.now).await?;
                let next = DeploymentState::Routing;
                deployment_state::advance(conn, self.job.deployment_id, next, self.now).await.map(|_| ())
            }
            (JobKind::Deploy, Outcome::Failed { message }) => self.failed(conn, message).await,
            (JobKind::Deploy, Outcome::Cancelled) => self.cancelled(conn).await,
            (JobKind::Deploy, Outcome::Stopped | Outcome::Deleted) => {
                self.failed(conn, "The worker answered with something else than a deploy.").await
            }
            (JobKind::Stop, Outcome::Stopped) => {
                instances::set_state(conn, self.instance_id, InstanceState::Stopped).await?;
                jobs::finish(conn, self.job.id, JobState::Succeeded, None, self.now).await
            }
            (JobKind::Delete, Outcome::Deleted) => {
                jobs::finish(conn, self.job.id, JobState::Succeeded, None, self.now).await
            }
            (JobKind::Stop | JobKind::Delete, outcome) => {
                let reason = match outcome {
                    Outcome::Failed { message } => shortened(message),
                    _ => "the worker did not do it".to_owned(),
                };
                tracing::warn!(job.id = %self.job.id, job.kind = %self.job.kind, reason, "a job failed; trying again");
                jobs::retry(conn, self.job.id, &reason, self.now + RETRY_AFTER).await
            }
        }
    }

    async fn failed(&self, conn: &mut PgConnection, message: &str) -> Result<(), StoreError> {
        fail(conn, self.job, &shortened(message), self.now).await
    }

    async fn cancelled(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        jobs::finish(conn, self.job.id, JobState::Cancelled, None, self.now).await?;
        instances::set_state(conn, self.instance_id, InstanceState::Failed).await?;
        let next = DeploymentState::Cancelled;
        deployment_state::advance(conn, self.job.deployment_id, next, self.now).await.map(|_| ())
    }
}

fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Deployed { .. } => "deployed",
        Outcome::Stopped => "stopped",
        Outcome::Deleted => "deleted",
        Outcome::Failed { .. } => "failed",
        Outcome::Cancelled => "cancelled",
    }
}

/// As much of a worker's message as is kept; Postgres stores any character but NUL.
pub(super) fn shortened(message: &str) -> String {
    message.replace('\0', "\u{fffd}").chars().take(MESSAGE_CHARS_MAX).collect()
}
