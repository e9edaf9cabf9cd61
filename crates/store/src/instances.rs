//! Instances: one container of a deployment on one worker, and what its worker last said of it.

use crate::{
    StoreError,
    error::{doing, inconsistent},
};
use sqlx::PgConnection;
use std::net::SocketAddr;
use time::OffsetDateTime;
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId, UserId},
    limits::Limits,
    name::Label,
    state::InstanceState,
};

/// An instance that is about to be started.
#[derive(Clone, Debug)]
pub struct NewInstance<'a> {
    /// Its id.
    pub id: InstanceId,
    /// Of which deployment.
    pub deployment_id: DeploymentId,
    /// Where.
    pub worker: &'a Label,
    /// What it may use.
    pub limits: Limits,
}

/// What a worker says of a container.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Whether it runs.
    pub running: bool,
    /// Exit status of the last run, if it ended.
    pub exit_code: Option<i64>,
    /// Whether it has not run for a while, or is kept from running.
    pub stopped: bool,
    /// When it was so, by the worker's clock.
    pub observed_at: OffsetDateTime,
}

/// Reserves an instance's place on its worker.
///
/// # Errors
/// The database is away.
pub async fn create(
    conn: &mut PgConnection,
    instance: &NewInstance<'_>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO instances (id, deployment_id, worker, state, memory_bytes, cpu_millis, created_at)
         VALUES ($1, $2, $3, 'starting', $4, $5, $6)",
        instance.id.0,
        instance.deployment_id.0,
        instance.worker.as_str(),
        i64::try_from(instance.limits.memory_bytes()).unwrap_or(i64::MAX),
        i32::try_from(instance.limits.cpu_millis()).unwrap_or(i32::MAX),
        now
    )
    .execute(conn)
    .await
    .map_err(doing("create an instance"))
    .map(|_| ())
}

/// The worker proved it healthy at `address`.
///
/// # Errors
/// The database is away.
pub async fn healthy(conn: &mut PgConnection, id: InstanceId, address: SocketAddr) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE instances SET state = 'healthy', address = $2::text::inet, port = $3 WHERE id = $1",
        id.0,
        address.ip().to_string(),
        i32::from(address.port())
    )
    .execute(conn)
    .await
    .map_err(doing("note a healthy instance"))
    .map(|_| ())
}

/// It is in `state` from now on.
///
/// # Errors
/// The database is away.
pub async fn set_state(
    conn: &mut PgConnection,
    id: InstanceId,
    state: InstanceState,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE instances SET state = $2 WHERE id = $1", id.0, state.as_str())
        .execute(conn)
        .await
        .map_err(doing("change the state of an instance"))
        .map(|_| ())
}

/// What was known of an instance before an [`Observation`] was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// How far the instance is for us.
    pub state: InstanceState,
    /// Whether it counted as stopped.
    pub stopped: bool,
}

/// Stores what `worker` said of one of its instances, and returns what was known before; none if it has no such instance. A
/// worker speaks in order, so what comes last is true, whatever its clock says.
///
/// # Errors
/// The database is away.
pub async fn observe(
    conn: &mut PgConnection,
    worker: &Label,
    id: InstanceId,
    seen: Observation,
) -> Result<Option<Before>, StoreError> {
    let operation = "note what an instance does";
    let row = sqlx::query!(
        "WITH before AS (SELECT id, state, stopped FROM instances
                         WHERE id = $1 AND worker = $2 FOR UPDATE)
         UPDATE instances SET running = $3, exit_code = $4, stopped = $5, observed_at = $6
         FROM before WHERE instances.id = before.id
         RETURNING before.state, before.stopped",
        id.0,
        worker.as_str(),
        seen.running,
        seen.exit_code,
        seen.stopped,
        seen.observed_at
    )
    .fetch_optional(conn)
    .await
    .map_err(doing(operation))?;
    row.map(|row| {
        let state = row.state.parse().map_err(inconsistent(operation))?;
        Ok(Before { state, stopped: row.stopped })
    })
    .transpose()
}

/// Its container will not run again: another instance has to serve, see [`restless`](crate::rollout::restless).
///
/// # Errors
/// The database is away.
pub async fn lost(conn: &mut PgConnection, id: InstanceId, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query!("UPDATE instances SET lost_at = $2 WHERE id = $1", id.0, now)
        .execute(conn)
        .await
        .map_err(doing("note a lost instance"))
        .map(|_| ())
}

/// The instances that a worker has or is to make, as far as is known.
///
/// # Errors
/// The database is away.
pub async fn given_to(conn: &mut PgConnection, worker: &Label) -> Result<Vec<InstanceId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM instances WHERE worker = $1 AND state NOT IN ('stopped', 'failed')",
        worker.as_str()
    )
    .fetch_all(conn)
    .await
    .map_err(doing("list what a worker was given"))?;
    Ok(ids.into_iter().map(InstanceId).collect())
}

/// The instances that serve on a worker as far as is known.
///
/// # Errors
/// The database is away.
pub async fn serving_on(conn: &mut PgConnection, worker: &Label) -> Result<Vec<InstanceId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM instances WHERE worker = $1 AND state = 'healthy' AND NOT stopped",
        worker.as_str()
    )
    .fetch_all(conn)
    .await
    .map_err(doing("list what serves on a worker"))?;
    Ok(ids.into_iter().map(InstanceId).collect())
}

/// The app of an instance of this worker.
///
/// # Errors
/// The database is away.
pub async fn app_of(
    conn: &mut PgConnection,
    worker: &Label,
    id: InstanceId,
) -> Result<Option<AppId>, StoreError> {
    let app = sqlx::query_scalar!(
        "SELECT d.app_id FROM instances i JOIN deployments d ON d.id = i.deployment_id
         WHERE i.id = $1 AND i.worker = $2",
        id.0,
        worker.as_str()
    )
    .fetch_optional(conn)
    .await
    .map_err(doing("look up the app of an instance"))?;
    Ok(app.map(AppId))
}

/// An instance that has a place on a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which.
    pub id: InstanceId,
    /// Of which app.
    pub app_id: AppId,
    /// Number of its deployment.
    pub deployment: i32,
    /// Where.
    pub worker: Label,
    /// How far it is.
    pub state: InstanceState,
    /// The memory that it may use.
    pub memory_bytes: u64,
    /// The processor time that it may use, in thousandths of a core.
    pub cpu_millis: u32,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The instances of all of the owner's apps that have a place on a worker, oldest first.
///
/// # Errors
/// The database is away.
pub async fn placed(conn: &mut PgConnection, owner: UserId) -> Result<Vec<Placed>, StoreError> {
    let operation = "list the instances of a user";
    let rows = sqlx::query!(
        "SELECT i.id, d.app_id, d.number, i.worker, i.state, i.memory_bytes, i.cpu_millis
         FROM instances i JOIN deployments d ON d.id = i.deployment_id JOIN apps a ON a.id = d.app_id
         WHERE a.owner_id = $1 AND a.deleted_at IS NULL AND i.state NOT IN ('stopped', 'failed')
         ORDER BY i.created_at, i.id",
        owner.0
    )
    .fetch_all(conn)
    .await
    .map_err(doing(operation))?;
    rows.into_iter()
        .map(|row| {
            Ok(Placed {
                id: InstanceId(row.id),
                app_id: AppId(row.app_id),
                deployment: row.number,
                worker: row.worker.parse()?,
                state: row.state.parse()?,
                memory_bytes: row.memory_bytes.try_into()?,
                cpu_millis: row.cpu_millis.try_into()?,
            })
        })
        .collect::<Result<_, BoxError>>()
        .map_err(inconsistent(operation))
}
