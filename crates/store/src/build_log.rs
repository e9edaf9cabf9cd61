//! The log of a deployment's build: numbered lines, each stored once.

use crate::{StoreError, error::doing};
use sqlx::PgConnection;
use time::OffsetDateTime;
use wisehosting_domain::{
    id::{DeploymentId, UserId},
    name::Label,
};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number within the log, from 0.
    pub number: u64,
    /// When it was written.
    pub at: OffsetDateTime,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// Without its end.
    pub text: String,
}

struct Row {
    line: i64,
    at: OffsetDateTime,
    stream: String,
    text: String,
}

impl From<Row> for Line {
    fn from(row: Row) -> Self {
        Self {
            number: u64::try_from(row.line).unwrap_or_default(),
            at: row.at,
            stream: row.stream,
            text: row.text,
        }
    }
}

/// Stores the lines that are new, if `worker` has a job of this deployment; returns how many were new.
///
/// # Errors
/// The database is away.
pub async fn append(
    conn: &mut PgConnection,
    worker: &Label,
    deployment_id: DeploymentId,
    lines: &[Line],
) -> Result<u64, StoreError> {
    let numbers: Vec<i64> = lines.iter().map(|line| i64::try_from(line.number).unwrap_or(i64::MAX)).collect();
    let times: Vec<OffsetDateTime> = lines.iter().map(|line| line.at).collect();
    let streams: Vec<String> = lines.iter().map(|line| line.stream.clone()).collect();
    // Postgres stores any character but this one.
    let texts: Vec<String> = lines.iter().map(|line| line.text.replace('\0', "\u{fffd}")).collect();
    let stored = sqlx::query!(
        "INSERT INTO build_log_lines (deployment_id, line, at, stream, text)
         SELECT $1, new.line, new.at, new.stream, new.text
         FROM unnest($3::bigint[], $4::timestamptz[], $5::text[], $6::text[]) AS new (line, at, stream, text)
         WHERE EXISTS (SELECT FROM jobs WHERE deployment_id = $1 AND worker = $2)
         ON CONFLICT DO NOTHING",
        deployment_id.0,
        worker.as_str(),
        &numbers,
        &times,
        &streams,
        &texts
    )
    .execute(conn)
    .await
    .map_err(doing("store build log lines"))?;
    Ok(stored.rows_affected())
}

/// At most `limit` lines of one of the owner's deployments, from number `from` on.
///
/// # Errors
/// The database is away.
pub async fn read(
    conn: &mut PgConnection,
    owner: UserId,
    deployment_id: DeploymentId,
    from: u64,
    limit: u32,
) -> Result<Vec<Line>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT l.line, l.at, l.stream, l.text
         FROM build_log_lines l JOIN deployments d ON d.id = l.deployment_id JOIN apps a ON a.id = d.app_id
         WHERE a.owner_id = $1 AND l.deployment_id = $2 AND l.line >= $3 ORDER BY l.line LIMIT $4",
        owner.0,
        deployment_id.0,
        i64::try_from(from).unwrap_or(i64::MAX),
        i64::from(limit)
    )
    .fetch_all(conn)
    .await
    .map_err(doing("read a build log"))?;
    Ok(rows.into_iter().map(Line::from).collect())
}

/// Removes the logs of deployments that are over and were queued before `before`, and all but this many of each app; that of
/// an app's last one stays. Returns how many lines.
///
/// # Errors
/// The database is away.
pub async fn prune(
    conn: &mut PgConnection,
    before: OffsetDateTime,
    builds_max_per_app: u32,
) -> Result<u64, StoreError> {
    let removed = sqlx::query!(
        "DELETE FROM build_log_lines USING (
             SELECT id, created_at, row_number() OVER (PARTITION BY app_id ORDER BY number DESC) AS place
             FROM deployments WHERE state IN ('superseded', 'stopped', 'failed', 'cancelled')
         ) AS ended
         WHERE build_log_lines.deployment_id = ended.id
           AND ended.place > 1 AND (ended.created_at < $1 OR ended.place > $2)",
        before,
        i64::from(builds_max_per_app)
    );
    let removed = removed.execute(conn).await.map_err(doing("remove old build logs"))?;
    Ok(removed.rows_affected())
}
