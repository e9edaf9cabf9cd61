//! The job queue: claimed under a lock, held by a lease, ended exactly once.
//!
//! A job is `pending` until a worker is chosen for it, `running` while that worker holds its lease, and then has one
//! outcome for good. Who ends it locks its row first ([`lock`]), so a result and a lost lease cannot both count.

use crate::{
    StoreError,
    apps::RepositoryLogin,
    changes,
    error::{doing, inconsistent},
    pool,
};
use serde::Deserialize as _;
use sqlx::PgConnection;
use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId, JobId},
    name::Label,
    settings::Settings,
    state::{JobKind, JobState},
};

/// A query for jobs; takes what follows the join.
macro_rules! select_jobs {
    ($rest:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            "SELECT j.id, j.kind, j.state, j.created_at, j.app_id, a.name AS app, j.deployment_id, d.snapshot,
                    j.instance_id, j.worker, j.message, j.deadline_at, j.lease_expires_at, j.acked_at, j.cancel_requested_at,
                    a.login,
                    (SELECT r.image_id FROM deployments r WHERE r.id = d.repeats) AS image_id,
                    (SELECT i.worker FROM instances i WHERE i.deployment_id = d.repeats
                     ORDER BY i.created_at DESC LIMIT 1) AS image_worker
             FROM jobs j JOIN apps a ON a.id = j.app_id JOIN deployments d ON d.id = j.deployment_id " + $rest,
            $($argument),*
        )
    };
}

mod queue;

pub use queue::{Ready, Turn, lock_ready, waited_for, waiting_reason, waits_for};

/// A job with what its worker needs to know of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// Whose.
    pub app: (AppId, Label),
    /// Of which deployment.
    pub deployment_id: DeploymentId,
    /// What the deployment is to bring into service.
    pub content: Result<Content, UnreadableContent>,
    /// Its instance; a deploy job has one once it runs.
    pub instance_id: Option<InstanceId>,
    /// Its worker; a deploy job has one once it runs.
    pub worker: Option<Label>,
    /// While it runs.
    pub run: Run,
}

/// What a deployment is to bring into service.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its copy of the app's settings.
    pub settings: Settings,
    /// The login that its app has now for the repository.
    pub login: Option<RepositoryLogin>,
    /// An image that was built of it before.
    pub image: Option<KeptImage>,
}

/// Settings that another version of this program stored. Shown to the app's owner.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "Its settings were stored by another version of the control plane, and this one cannot read them. Deploy again."
)]
pub struct UnreadableContent(#[source] Arc<serde_json::Error>);

/// An image that a worker has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptImage {
    /// The image, by its content.
    pub id: String,
    /// Who has it, unless it was removed there.
    pub worker: Label,
}

/// The marks of a job that runs.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Past it, the job has failed, whatever its worker says.
    pub deadline_at: Option<OffsetDateTime>,
    /// Past it, its worker counts as lost.
    pub lease_expires_at: Option<OffsetDateTime>,
    /// Whether the worker said that it has the job.
    pub acked: bool,
    /// Whether somebody called it off.
    pub cancel_requested: bool,
}

/// What a call to [`request_cancel`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// It had not begun, and never will.
    Done,
    /// It runs; its worker must be told.
    Requested,
    /// The deployment has no deploy job that could be called off.
    TooLate,
}

struct Row {
    id: Uuid,
    kind: String,
    state: String,
    created_at: OffsetDateTime,
    app_id: Uuid,
    app: String,
    deployment_id: Uuid,
    snapshot: serde_json::Value,
    instance_id: Option<Uuid>,
    worker: Option<String>,
    message: Option<String>,
    deadline_at: Option<OffsetDateTime>,
    lease_expires_at: Option<OffsetDateTime>,
    acked_at: Option<OffsetDateTime>,
    cancel_requested_at: Option<OffsetDateTime>,
    login: Option<serde_json::Value>,
    image_id: Option<String>,
    image_worker: Option<String>,
}

impl Row {
    fn snapshot_and_login(&self) -> Result<(Settings, Option<RepositoryLogin>), serde_json::Error> {
        Ok((
            Settings::deserialize(&self.snapshot)?,
            self.login.as_ref().map(RepositoryLogin::deserialize).transpose()?,
        ))
    }

    fn into_job(self) -> Result<Job, StoreError> {
        let operation = "load a job";
        let image = match (&self.image_id, &self.image_worker) {
            (Some(id), Some(worker)) => {
                Some(KeptImage { id: id.clone(), worker: worker.parse().map_err(inconsistent(operation))? })
            }
            _ => None,
        };
        let content = self.snapshot_and_login().map(|(settings, login)| Content { settings, login, image });
        Ok(Job {
            id: JobId(self.id),
            kind: self.kind.parse().map_err(inconsistent(operation))?,
            state: self.state.parse().map_err(inconsistent(operation))?,
            app: (AppId(self.app_id), self.app.parse().map_err(inconsistent(operation))?),
            deployment_id: DeploymentId(self.deployment_id),
            content: content.map_err(|error| UnreadableContent(Arc::new(error))),
            instance_id: self.instance_id.map(InstanceId),
            worker: self.worker.map(|name| name.parse()).transpose().map_err(inconsistent(operation))?,
            run: Run {
                deadline_at: self.deadline_at,
                lease_expires_at: self.lease_expires_at,
                acked: self.acked_at.is_some(),
                cancel_requested: self.cancel_requested_at.is_some(),
            },
        })
    }
}

/// Queues the deploy job of a deployment, and tells the scheduler once that is committed.
///
/// # Errors
/// The database is away.
pub async fn enqueue_deploy(
    conn: &mut PgConnection,
    id: JobId,
    app_id: AppId,
    deployment_id: DeploymentId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO jobs (id, kind, state, app_id, deployment_id, created_at)
         VALUES ($1, 'deploy', 'pending', $2, $3, $4)",
        id.0,
        app_id.0,
        deployment_id.0,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("queue a deploy job"))?;
    pool::notify(conn, changes::JOBS).await
}

/// Queues a job that stops an instance, unless it has one already, and tells the scheduler once that is committed. On a
/// removed worker nobody could: such an instance has failed.
///
/// # Errors
/// The database is away.
pub async fn enqueue_stop(
    conn: &mut PgConnection,
    id: JobId,
    instance_id: InstanceId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH stopping AS (
             UPDATE instances i SET state = CASE WHEN w.removed_at IS NULL THEN 'stopping' ELSE 'failed' END
             FROM workers w
             WHERE w.name = i.worker AND i.id = $2 AND i.state NOT IN ('stopping', 'stopped')
             RETURNING i.id, i.worker, i.deployment_id, w.removed_at
         )
         INSERT INTO jobs (id, kind, state, app_id, deployment_id, instance_id, worker, created_at)
         SELECT $1, 'stop', 'pending', d.app_id, d.id, s.id, s.worker, $3
         FROM stopping s JOIN deployments d ON d.id = s.deployment_id WHERE s.removed_at IS NULL",
        id.0,
        instance_id.0,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("queue a stop job"))?;
    pool::notify(conn, changes::JOBS).await
}

/// Queues a job that has a worker remove all that it has of an app, and tells the scheduler once that is committed. The
/// job is about the last instance that the worker had.
///
/// # Errors
/// The database is away.
pub async fn enqueue_delete(
    conn: &mut PgConnection,
    id: JobId,
    app_id: AppId,
    worker: &Label,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO jobs (id, kind, state, app_id, deployment_id, instance_id, worker, created_at)
         SELECT $1, 'delete', 'pending', d.app_id, d.id, i.id, i.worker, $4
         FROM instances i JOIN deployments d ON d.id = i.deployment_id
         WHERE d.app_id = $2 AND i.worker = $3 ORDER BY i.created_at DESC LIMIT 1",
        id.0,
        app_id.0,
        worker.as_str(),
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("queue a delete job"))?;
    pool::notify(conn, changes::JOBS).await
}

/// Gives a locked job to a worker.
///
/// # Errors
/// The database is away.
pub async fn start(
    conn: &mut PgConnection,
    id: JobId,
    worker: &Label,
    instance_id: InstanceId,
    now: OffsetDateTime,
    run: Run,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE jobs SET state = 'running', worker = $2, instance_id = $3, started_at = $4,
                lease_expires_at = $5, deadline_at = $6, acked_at = NULL, message = NULL
         WHERE id = $1",
        id.0,
        worker.as_str(),
        instance_id.0,
        now,
        run.lease_expires_at,
        run.deadline_at
    )
    .execute(conn)
    .await
    .map_err(doing("start a job"))
    .map(|_| ())
}

/// The worker said that it has the job.
///
/// # Errors
/// The database is away.
pub async fn acked(
    conn: &mut PgConnection,
    worker: &Label,
    id: JobId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE jobs SET acked_at = $3 WHERE id = $1 AND worker = $2 AND state = 'running' AND acked_at IS NULL",
        id.0,
        worker.as_str(),
        now
    )
    .execute(conn)
    .await
    .map_err(doing("note that a worker has a job"))
    .map(|_| ())
}

/// A running job's deadline is this one, unless it has an earlier one.
///
/// # Errors
/// The database is away.
pub async fn must_end(
    conn: &mut PgConnection,
    id: JobId,
    deadline_at: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE jobs SET deadline_at = least(deadline_at, $2) WHERE id = $1", id.0, deadline_at)
        .execute(conn)
        .await
        .map_err(doing("set the deadline of a job"))
        .map(|_| ())
}

/// Locks one job of `worker`; none if the worker was never given it.
///
/// # Errors
/// The database is away.
pub async fn lock(conn: &mut PgConnection, worker: &Label, id: JobId) -> Result<Option<Job>, StoreError> {
    let row = select_jobs!(
        "WHERE j.id = $1 AND j.worker = $2
         FOR UPDATE OF j",
        id.0,
        worker.as_str()
    )
    .fetch_optional(conn)
    .await
    .map_err(doing("lock a job"))?;
    row.map(Row::into_job).transpose()
}

/// The jobs that `worker` is to be running.
///
/// # Errors
/// The database is away.
pub async fn running_on(conn: &mut PgConnection, worker: &Label) -> Result<Vec<Job>, StoreError> {
    let rows = select_jobs!(
        "WHERE j.worker = $1 AND j.state = 'running'
         ORDER BY j.created_at, j.id",
        worker.as_str()
    )
    .fetch_all(conn)
    .await
    .map_err(doing("list a worker's jobs"))?;
    rows.into_iter().map(Row::into_job).collect()
}

/// Locks the running jobs that were given to workers in this time, which have not said that they have them.
///
/// # Errors
/// The database is away.
pub async fn lock_unacknowledged(
    conn: &mut PgConnection,
    given: Range<OffsetDateTime>,
) -> Result<Vec<Job>, StoreError> {
    let rows = select_jobs!(
        "WHERE j.state = 'running' AND j.acked_at IS NULL AND j.started_at >= $1 AND j.started_at < $2
         ORDER BY j.created_at, j.id
         FOR UPDATE OF j SKIP LOCKED",
        given.start,
        given.end
    )
    .fetch_all(conn)
    .await
    .map_err(doing("look for jobs that nobody acknowledges"))?;
    rows.into_iter().map(Row::into_job).collect()
}

/// Locks the running jobs whose lease or deadline is over.
///
/// # Errors
/// The database is away.
pub async fn lock_overdue(conn: &mut PgConnection, now: OffsetDateTime) -> Result<Vec<Job>, StoreError> {
    let rows = select_jobs!(
        "WHERE j.state = 'running' AND (j.lease_expires_at < $1 OR j.deadline_at < $1)
         ORDER BY j.created_at, j.id
         FOR UPDATE OF j SKIP LOCKED",
        now
    )
    .fetch_all(conn)
    .await
    .map_err(doing("look for overdue jobs"))?;
    rows.into_iter().map(Row::into_job).collect()
}

/// Gives a locked job its outcome.
///
/// # Errors
/// The database is away.
pub async fn finish(
    conn: &mut PgConnection,
    id: JobId,
    outcome: JobState,
    message: Option<&str>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE jobs SET state = $2, message = $3, finished_at = $4, lease_expires_at = NULL WHERE id = $1",
        id.0,
        outcome.as_str(),
        message,
        now
    )
    .execute(conn)
    .await
    .map_err(doing("end a job"))
    .map(|_| ())
}

/// Puts a locked job back into the queue until `not_before`; for stop and delete jobs, which are never given up.
///
/// # Errors
/// The database is away.
pub async fn retry(
    conn: &mut PgConnection,
    id: JobId,
    reason: &str,
    not_before: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE jobs SET state = 'pending', message = $2, not_before = $3,
                acked_at = NULL, lease_expires_at = NULL, deadline_at = NULL
         WHERE id = $1",
        id.0,
        reason,
        not_before
    )
    .execute(conn)
    .await
    .map_err(doing("put a job back"))
    .map(|_| ())
}

/// Gives every running job a fresh lease, and at least as much time to end: after a pause of ours, no worker is to blame for
/// its silence, and its result may be on the way. `step`: by which the clock went on meanwhile, or back; deadlines go with it, but
/// for those of jobs that were `given` after it.
///
/// # Errors
/// The database is away.
pub async fn renew_leases(
    conn: &mut PgConnection,
    lease_expires_at: OffsetDateTime,
    step: Duration,
    given: RangeInclusive<OffsetDateTime>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE jobs SET lease_expires_at = $1, deadline_at = greatest($1, CASE
                WHEN started_at BETWEEN $3 AND $4 THEN deadline_at ELSE deadline_at + make_interval(secs => $2) END)
         WHERE state = 'running'",
        lease_expires_at,
        step.as_seconds_f64(),
        given.start(),
        given.end()
    )
    .execute(conn)
    .await
    .map_err(doing("renew the leases"))
    .map(|_| ())
}

/// Lets no job wait any longer before it is tried again.
///
/// # Errors
/// The database is away.
pub async fn end_waits(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!("UPDATE jobs SET not_before = NULL WHERE state = 'pending' AND not_before IS NOT NULL")
        .execute(conn)
        .await
        .map_err(doing("let jobs wait no longer"))
        .map(|_| ())
}

/// The running jobs that were called off, and who runs them.
///
/// # Errors
/// The database is away.
pub async fn called_off(conn: &mut PgConnection) -> Result<Vec<(JobId, Label)>, StoreError> {
    let operation = "list the jobs that were called off";
    let rows = sqlx::query!(
        r#"SELECT id, worker AS "worker!" FROM jobs
           WHERE state = 'running' AND cancel_requested_at IS NOT NULL AND worker IS NOT NULL
           ORDER BY created_at, id"#
    )
    .fetch_all(conn)
    .await
    .map_err(doing(operation))?;
    rows.into_iter()
        .map(|row| Ok((JobId(row.id), row.worker.parse().map_err(inconsistent(operation))?)))
        .collect()
}

/// Calls off the deploy job of a deployment. The caller has checked whose deployment it is, and ends the deployment
/// itself if the answer is [`Cancel::Done`].
///
/// # Errors
/// The database is away.
pub async fn request_cancel(
    conn: &mut PgConnection,
    deployment_id: DeploymentId,
    now: OffsetDateTime,
) -> Result<Cancel, StoreError> {
    let state = sqlx::query_scalar!(
        "UPDATE jobs
         SET state = CASE state WHEN 'pending' THEN 'cancelled' ELSE state END,
             finished_at = CASE state WHEN 'pending' THEN $2 ELSE finished_at END,
             cancel_requested_at = coalesce(cancel_requested_at, $2)
         WHERE deployment_id = $1 AND kind = 'deploy' AND state IN ('pending', 'running')
         RETURNING state",
        deployment_id.0,
        now
    )
    .fetch_optional(conn)
    .await
    .map_err(doing("call off a job"))?;
    Ok(match state.as_deref() {
        None => Cancel::TooLate,
        Some(state) if state == JobState::Running.as_str() => Cancel::Requested,
        Some(_) => Cancel::Done,
    })
}
