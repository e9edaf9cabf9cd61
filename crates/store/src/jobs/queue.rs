//! The jobs that wait: who is next, and for what the others wait.

use super::{Job, Row};
use crate::{
    StoreError,
    error::{doing, inconsistent},
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use wisehosting_domain::{
    id::{DeploymentId, JobId},
    name::Label,
};

/// What a deploy job waits for that is not the first of its app.
const BEHIND: &str = "an earlier deployment of this app is under way";

/// A job that may begin.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The job.
    pub job: Job,
    /// Its place in the queue.
    pub turn: Turn,
    /// What it has waited for until now, as far as anybody has looked.
    pub waits_for: Option<String>,
}

impl Ready {
    fn from_row(mut row: Row) -> Result<Self, StoreError> {
        let (turn, waits_for) = (Turn { created_at: row.created_at, id: JobId(row.id) }, row.message.take());
        Ok(Self { job: row.into_job()?, turn, waits_for })
    }
}

/// A place in the queue: who asked first comes first.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// When it was asked for.
    pub created_at: OffsetDateTime,
    /// The job: of two that were asked for at once, one comes first.
    pub id: JobId,
}

/// The workers that jobs wait for which no other worker can do.
///
/// # Errors
/// The database is away.
pub async fn waited_for(conn: &mut PgConnection) -> Result<Vec<Label>, StoreError> {
    let operation = "list the workers that jobs wait for";
    let names = sqlx::query_scalar!(
        r#"SELECT DISTINCT worker AS "worker!" FROM jobs WHERE state = 'pending' AND worker IS NOT NULL
           ORDER BY worker"#
    )
    .fetch_all(conn)
    .await
    .map_err(doing(operation))?;
    names.into_iter().map(|name| name.parse().map_err(inconsistent(operation))).collect()
}

/// Locks the oldest jobs that may begin now and come `after` a turn, `limit` at most: a job whose worker is known and among
/// `connected`, or a deploy job with none of its app before it.
///
/// # Errors
/// The database is away.
pub async fn lock_ready(
    conn: &mut PgConnection,
    connected: &[Label],
    after: Option<Turn>,
    limit: u32,
    now: OffsetDateTime,
) -> Result<Vec<Ready>, StoreError> {
    let connected: Vec<String> = connected.iter().map(ToString::to_string).collect();
    let rows = select_jobs!(
        "WHERE j.state = 'pending' AND (j.not_before IS NULL OR j.not_before <= $5)
             AND ($2::timestamptz IS NULL OR (j.created_at, j.id) > ($2, $3))
             AND (j.worker = ANY($1) OR j.kind = 'deploy' AND NOT EXISTS (
                 SELECT FROM jobs before
                 WHERE before.app_id = j.app_id AND before.kind = 'deploy'
                   AND before.state IN ('pending', 'running') AND (before.state = 'running'
                        OR (before.created_at, before.id) < (j.created_at, j.id))))
           ORDER BY j.created_at, j.id LIMIT $4
           FOR UPDATE OF j SKIP LOCKED",
        &connected,
        after.map(|turn| turn.created_at),
        after.map(|turn| turn.id.0),
        i64::from(limit),
        now
    )
    .fetch_all(conn)
    .await
    .map_err(doing("look for jobs"))?;
    rows.into_iter().map(Ready::from_row).collect()
}

/// What a locked, pending job waits for.
///
/// # Errors
/// The database is away.
pub async fn waits_for(conn: &mut PgConnection, id: JobId, reason: &str) -> Result<(), StoreError> {
    sqlx::query!("UPDATE jobs SET message = $2 WHERE id = $1", id.0, reason)
        .execute(conn)
        .await
        .map_err(doing("note what a job waits for"))
        .map(|_| ())
}

/// Why the deploy job of a deployment still waits; none if it does not.
///
/// # Errors
/// The database is away.
pub async fn waiting_reason(
    conn: &mut PgConnection,
    deployment_id: DeploymentId,
) -> Result<Option<String>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT j.message, EXISTS (
               SELECT FROM jobs before
               WHERE before.app_id = j.app_id AND before.kind = 'deploy' AND before.state IN ('pending', 'running')
                 AND (before.created_at, before.id) < (j.created_at, j.id)) AS "behind!"
           FROM jobs j WHERE j.deployment_id = $1 AND j.kind = 'deploy' AND j.state = 'pending'"#,
        deployment_id.0
    )
    .fetch_optional(conn)
    .await
    .map_err(doing("look up what a deployment waits for"))?;
    Ok(row.and_then(|row| if row.behind { Some(BEHIND.to_owned()) } else { row.message }))
}
