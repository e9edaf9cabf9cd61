//! Workers: declared by the configuration, seen when their agent connects, used by instances.

use crate::{
    DeclaredNode, StoreError,
    error::{doing, inconsistent},
};
use sqlx::PgConnection;
use std::net::IpAddr;
use time::OffsetDateTime;
use wisehosting_domain::{id::JobId, name::Label};

pub use wisehosting_domain::placement::Share;

/// A worker and how used it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its name.
    pub name: Label,
    /// Its address inside the mesh.
    pub address: IpAddr,
    /// Version of its agent, once it has been seen.
    pub version: Option<String>,
    /// When its agent last said anything.
    pub last_seen_at: Option<OffsetDateTime>,
    /// What it can give to instances.
    pub capacity: Share,
    /// Sum of the limits of its instances.
    pub used: Share,
    /// As much of that as belongs to instances that are not up yet.
    pub starting: Share,
    /// Instances that count against it.
    pub instances: i64,
    /// Whether it is being emptied: an operator said so, or the configuration does not name it any more.
    pub draining: bool,
}

macro_rules! select_workers {
    ($rest:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT w.name, host(w.address) AS "address!", w.version, w.last_seen_at, w.memory_bytes, w.cpu_millis,
                      coalesce(sum(i.memory_bytes), 0)::bigint AS "memory_bytes_used!",
                      coalesce(sum(i.cpu_millis), 0)::bigint AS "cpu_millis_used!",
                      coalesce(sum(i.memory_bytes) FILTER (WHERE i.state = 'starting'), 0)::bigint
                          AS "memory_bytes_starting!",
                      coalesce(sum(i.cpu_millis) FILTER (WHERE i.state = 'starting'), 0)::bigint
                          AS "cpu_millis_starting!",
                      count(i.id) AS "instances!",
                      w.removed_at IS NOT NULL OR w.draining_at IS NOT NULL AS "draining!"
               FROM workers w
               LEFT JOIN instances i ON i.worker = w.name AND i.state NOT IN ('stopped', 'failed') "# + $rest
            $(, $argument)*
        )
    };
}

struct Row {
    name: String,
    address: String,
    version: Option<String>,
    last_seen_at: Option<OffsetDateTime>,
    memory_bytes: i64,
    cpu_millis: i32,
    memory_bytes_used: i64,
    cpu_millis_used: i64,
    memory_bytes_starting: i64,
    cpu_millis_starting: i64,
    instances: i64,
    draining: bool,
}

impl Row {
    fn into_worker(self) -> Result<Worker, StoreError> {
        let operation = "list the workers";
        Ok(Worker {
            name: self.name.parse().map_err(inconsistent(operation))?,
            address: self.address.parse().map_err(inconsistent(operation))?,
            version: self.version,
            last_seen_at: self.last_seen_at,
            capacity: Share {
                memory_bytes: self.memory_bytes.try_into().map_err(inconsistent(operation))?,
                cpu_millis: self.cpu_millis.try_into().map_err(inconsistent(operation))?,
            },
            used: Share {
                memory_bytes: self.memory_bytes_used.try_into().map_err(inconsistent(operation))?,
                cpu_millis: self.cpu_millis_used.try_into().map_err(inconsistent(operation))?,
            },
            starting: Share {
                memory_bytes: self.memory_bytes_starting.try_into().map_err(inconsistent(operation))?,
                cpu_millis: self.cpu_millis_starting.try_into().map_err(inconsistent(operation))?,
            },
            instances: self.instances,
            draining: self.draining,
        })
    }
}

/// Makes the table say what the configuration says. A worker that is no longer declared may not connect; what serves there
/// goes on until the rollout has moved it.
///
/// # Errors
/// The database is away.
pub async fn declare(
    conn: &mut PgConnection,
    workers: &[DeclaredNode],
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let names: Vec<String> = workers.iter().map(|worker| worker.name.to_string()).collect();
    sqlx::query!(
        "UPDATE workers SET removed_at = $2 WHERE removed_at IS NULL AND name <> ALL($1)",
        &names,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("remove workers"))?;
    for worker in workers {
        sqlx::query!(
            "INSERT INTO workers (name, address) VALUES ($1, $2::text::inet)
             ON CONFLICT (name) DO UPDATE
             SET address = excluded.address, removed_at = NULL,
                 draining_at = CASE WHEN workers.removed_at IS NULL THEN workers.draining_at END",
            worker.name.as_str(),
            worker.address.to_string()
        )
        .execute(&mut *conn)
        .await
        .map_err(doing("declare a worker"))?;
    }
    give_up_removed(conn, now).await
}

/// Ends the stop jobs of removed workers, and what they were to stop: nobody is left who could. A deploy that runs there is
/// ended by its lease. Should such a worker be declared again, what it still runs is stopped as left behind.
async fn give_up_removed(conn: &mut PgConnection, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH ended AS (
             UPDATE jobs SET state = 'failed', message = 'its worker was removed', finished_at = $1,
                    lease_expires_at = NULL
             FROM workers w
             WHERE w.name = jobs.worker AND w.removed_at IS NOT NULL
               AND jobs.kind = 'stop' AND jobs.state IN ('pending', 'running')
         )
         UPDATE instances SET state = 'failed'
         FROM workers w
         WHERE w.name = instances.worker AND w.removed_at IS NOT NULL
           AND instances.state = 'stopping'",
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("give up what removed workers were to stop"))
    .map(|_| ())
}

/// Empties a declared worker: it gets no new instances, and the rollout moves those that it has. Or ends that.
///
/// # Errors
/// [`StoreError::NotFound`]: no worker of this name is declared.
pub async fn drain(
    conn: &mut PgConnection,
    name: &Label,
    draining_since: Option<OffsetDateTime>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE workers SET draining_at = $2 WHERE name = $1 AND removed_at IS NULL RETURNING name",
        name.as_str(),
        draining_since
    )
    .fetch_one(conn)
    .await
    .map_err(doing("drain a worker"))
    .map(drop)
}

/// The declared workers, and those that are not declared any more and not yet empty; by name.
///
/// # Errors
/// The database is away.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Worker>, StoreError> {
    let rows =
        select_workers!("GROUP BY w.name HAVING w.removed_at IS NULL OR count(i.id) > 0 ORDER BY w.name")
            .fetch_all(conn)
            .await
            .map_err(doing("list the workers"))?;
    rows.into_iter().map(Row::into_worker).collect()
}

/// Those of these names that there are, in no order.
///
/// # Errors
/// The database is away.
pub async fn among(conn: &mut PgConnection, names: &[Label]) -> Result<Vec<Worker>, StoreError> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let rows = select_workers!("WHERE w.name = ANY($1) GROUP BY w.name", &names)
        .fetch_all(conn)
        .await
        .map_err(doing("look at workers"))?;
    rows.into_iter().map(Row::into_worker).collect()
}

/// Its agent connected.
///
/// # Errors
/// The database is away.
pub async fn connected(
    conn: &mut PgConnection,
    name: &Label,
    version: &str,
    capacity: Share,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE workers SET version = $2, memory_bytes = $3, cpu_millis = $4, last_seen_at = $5 WHERE name = $1",
        name.as_str(),
        version,
        i64::try_from(capacity.memory_bytes).unwrap_or(i64::MAX),
        i32::try_from(capacity.cpu_millis).unwrap_or(i32::MAX),
        now
    )
    .execute(conn)
    .await
    .map_err(doing("note a worker's connection"))
    .map(|_| ())
}

/// Its agent is alive, and so are these of its jobs until `lease_expires_at`.
///
/// # Errors
/// The database is away.
pub async fn heartbeat(
    conn: &mut PgConnection,
    name: &Label,
    running_jobs: &[JobId],
    now: OffsetDateTime,
    lease_expires_at: OffsetDateTime,
) -> Result<(), StoreError> {
    let jobs: Vec<_> = running_jobs.iter().map(|job| job.0).collect();
    sqlx::query!(
        "WITH leases AS (
             UPDATE jobs SET lease_expires_at = $4 WHERE worker = $1 AND state = 'running' AND id = ANY($2)
         )
         UPDATE workers SET last_seen_at = $3 WHERE name = $1",
        name.as_str(),
        &jobs,
        now,
        lease_expires_at
    )
    .execute(conn)
    .await
    .map_err(doing("note a worker's heartbeat"))
    .map(|_| ())
}
