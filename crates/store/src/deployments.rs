//! Deployments as their owner sees them: asked for, listed, called off, read.
//!
//! A deployment's snapshot never changes, and a final state is never left. What the platform itself does to a
//! deployment takes no owner and says so.

use std::net::{IpAddr, SocketAddr};

use time::OffsetDateTime;
use uuid::Uuid;
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId, UserId},
    name::Label,
    settings::Settings,
    source::Source,
    state::{DeploymentState, InstanceState},
};

use crate::{
    PgConnection, StoreError,
    error::{doing, inconsistent},
    violations::Violation,
};

/// A query for deployments; takes what follows the join.
macro_rules! select_deployments {
    ($rest:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            "SELECT d.id, a.name AS app, d.number, d.state, d.snapshot, d.commit, d.image_id, d.message, d.created_at,
                    d.finished_at, d.repeats
             FROM deployments d JOIN apps a ON a.id = d.app_id " + $rest,
            $($argument),*
        )
    };
}

/// A deployment without its steps and instances.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Which.
    pub id: DeploymentId,
    /// Whose name it was made under.
    pub app: Label,
    /// Counts up within the app, from 1.
    pub number: i32,
    /// How far it is.
    pub state: DeploymentState,
    /// The settings that it was asked for with.
    pub snapshot: Settings,
    /// What was built, once known.
    pub built: Built,
    /// Why it failed, in one sentence for the owner.
    pub message: Option<String>,
    /// When it was asked for.
    pub created_at: OffsetDateTime,
    /// When it reached a final state or went live.
    pub finished_at: Option<OffsetDateTime>,
}

/// What a deployment runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// The commit.
    pub commit: Option<String>,
    /// The image, by its content.
    pub image_id: Option<String>,
    /// The deployment whose image it starts again; none if it is to be built.
    pub repeats: Option<DeploymentId>,
}

impl Deployment {
    /// What a deployment that repeats this one is to bring into service: the commit that was built, with these settings
    /// or its own.
    #[must_use]
    pub fn repeated(self, settings: Option<Settings>) -> Settings {
        let commit = self.built.commit.and_then(|commit| commit.parse().ok());
        let source = Source { commit, ..self.snapshot.source.clone() };
        Settings { source, ..settings.unwrap_or(self.snapshot) }
    }
}

/// When a deployment reached a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which state.
    pub state: DeploymentState,
    /// When.
    pub at: OffsetDateTime,
}

/// One container of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Which.
    pub id: InstanceId,
    /// Where.
    pub worker: Label,
    /// How far it is.
    pub state: InstanceState,
    /// Where it listens, inside the mesh.
    pub address: Option<SocketAddr>,
    /// Whether its container ran when it was last looked at.
    pub running: Option<bool>,
    /// Exit status of its program's last run, if it ended.
    pub exit_code: Option<i64>,
    /// Whether it has not run for a while, or is kept from running.
    pub stopped: bool,
    /// The newest limit that it broke.
    pub violation: Option<Violation>,
    /// When its worker last looked.
    pub observed_at: Option<OffsetDateTime>,
}

struct Row {
    id: Uuid,
    app: String,
    number: i32,
    state: String,
    snapshot: serde_json::Value,
    commit: Option<String>,
    image_id: Option<String>,
    message: Option<String>,
    created_at: OffsetDateTime,
    finished_at: Option<OffsetDateTime>,
    repeats: Option<Uuid>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl TryFrom<Row> for Deployment {
    type Error = BoxError;

    fn try_from(row: Row) -> Result<Self, BoxError> {
        Ok(Self {
            id: DeploymentId(row.id),
            app: row.app.parse()?,
            number: row.number,
            state: row.state.parse()?,
            snapshot: serde_json::from_value(row.snapshot)?,
            built: Built {
                commit: row.commit,
                image_id: row.image_id,
                repeats: row.repeats.map(DeploymentId),
            },
            message: row.message,
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    }
}

/// Stores a queued deployment of an app that the caller has [locked](crate::apps::lock), and returns its number. If it
/// `repeats` another one, that one's image is started again where it is kept. The app is to serve from now on.
///
/// # Errors
/// The database is away.
pub async fn create(
    connection: &mut PgConnection,
    app: AppId,
    id: DeploymentId,
    snapshot: &Settings,
    repeats: Option<DeploymentId>,
    now: OffsetDateTime,
) -> Result<i32, StoreError> {
    let operation = "create the deployment";
    let snapshot = serde_json::to_value(snapshot).map_err(inconsistent(operation))?;
    let query = sqlx::query_scalar!(
        "INSERT INTO deployments (id, app_id, number, state, snapshot, repeats, created_at)
         SELECT $1, $2, 1 + coalesce(max(number), 0), 'queued', $3, $4, $5 FROM deployments WHERE app_id = $2
         RETURNING number",
        id.0,
        app.0,
        snapshot,
        repeats.map(|id| id.0),
        now
    );
    let number = query.fetch_one(&mut *connection).await.map_err(doing(operation))?;
    let step = sqlx::query!(
        "INSERT INTO deployment_steps (deployment_id, state, at) VALUES ($1, 'queued', $2)",
        id.0,
        now
    );
    step.execute(&mut *connection).await.map_err(doing(operation))?;
    let serve =
        sqlx::query!("UPDATE apps SET stopped_at = NULL WHERE id = $1 AND stopped_at IS NOT NULL", app.0);
    serve.execute(connection).await.map_err(doing(operation))?;
    Ok(number)
}

/// The owner's deployments, newest first, `limit` at most; those of one app if `app` is given.
///
/// # Errors
/// The database is away.
pub async fn list(
    connection: &mut PgConnection,
    owner: UserId,
    app: Option<AppId>,
    limit: i64,
) -> Result<Vec<Deployment>, StoreError> {
    let operation = "list the deployments";
    let query = select_deployments!(
        "WHERE a.owner_id = $1 AND a.deleted_at IS NULL AND ($2::uuid IS NULL OR a.id = $2)
           ORDER BY d.created_at DESC, d.number DESC LIMIT $3",
        owner.0,
        app.map(|app| app.0),
        limit
    );
    let rows = query.fetch_all(connection).await.map_err(doing(operation))?;
    rows.into_iter().map(Deployment::try_from).collect::<Result<_, _>>().map_err(inconsistent(operation))
}

/// Of each of the owner's apps the newest deployment and the live ones, in any order.
///
/// # Errors
/// The database is away.
pub async fn current(connection: &mut PgConnection, owner: UserId) -> Result<Vec<Deployment>, StoreError> {
    let operation = "list the current deployments";
    let query = select_deployments!(
        "WHERE a.owner_id = $1 AND a.deleted_at IS NULL
             AND (d.state = 'live' OR d.number = (SELECT max(number) FROM deployments WHERE app_id = a.id))",
        owner.0
    );
    let rows = query.fetch_all(connection).await.map_err(doing(operation))?;
    rows.into_iter().map(Deployment::try_from).collect::<Result<_, _>>().map_err(inconsistent(operation))
}

/// The deployment of the owner's app that is in service, or was when the app was stopped; none if none ever was.
///
/// # Errors
/// The database is away.
pub async fn last_in_service(
    connection: &mut PgConnection,
    owner: UserId,
    app: AppId,
) -> Result<Option<Deployment>, StoreError> {
    let operation = "load the deployment in service";
    let query = select_deployments!(
        "WHERE a.owner_id = $1 AND a.id = $2 AND d.state IN ('live', 'stopped') ORDER BY d.number DESC LIMIT 1",
        owner.0,
        app.0
    );
    let row = query.fetch_optional(connection).await.map_err(doing(operation))?;
    row.map(Deployment::try_from).transpose().map_err(inconsistent(operation))
}

/// What a deployment that repeats this one is to bring into service: its settings, and the commit that was built. For the
/// platform itself, whoever its owner is.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn to_repeat(connection: &mut PgConnection, id: DeploymentId) -> Result<Settings, StoreError> {
    let operation = "load what a deployment repeats";
    let row =
        select_deployments!("WHERE d.id = $1", id.0).fetch_one(connection).await.map_err(doing(operation))?;
    Deployment::try_from(row).map(|deployment| deployment.repeated(None)).map_err(inconsistent(operation))
}

/// One deployment of the owner.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(
    connection: &mut PgConnection,
    owner: UserId,
    id: DeploymentId,
) -> Result<Deployment, StoreError> {
    let operation = "load the deployment";
    let query =
        select_deployments!("WHERE a.owner_id = $1 AND d.id = $2 AND a.deleted_at IS NULL", owner.0, id.0);
    let row = query.fetch_one(connection).await.map_err(doing(operation))?;
    Deployment::try_from(row).map_err(inconsistent(operation))
}

/// The states that one of the owner's deployments has reached, in the order in which it did.
///
/// # Errors
/// The database is away.
pub async fn steps(
    connection: &mut PgConnection,
    owner: UserId,
    id: DeploymentId,
) -> Result<Vec<Step>, StoreError> {
    let operation = "load the deployment's steps";
    let rows = sqlx::query!(
        "SELECT s.state, s.at FROM deployment_steps s
         JOIN deployments d ON d.id = s.deployment_id JOIN apps a ON a.id = d.app_id
         WHERE a.owner_id = $1 AND s.deployment_id = $2 ORDER BY s.at",
        owner.0,
        id.0
    )
    .fetch_all(connection)
    .await
    .map_err(doing(operation))?;
    rows.into_iter()
        .map(|row| Ok(Step { state: row.state.parse().map_err(inconsistent(operation))?, at: row.at }))
        .collect()
}

/// The instances of one of the owner's deployments, oldest first.
///
/// # Errors
/// The database is away.
pub async fn instances(
    connection: &mut PgConnection,
    owner: UserId,
    id: DeploymentId,
) -> Result<Vec<Instance>, StoreError> {
    let operation = "load the deployment's instances";
    let rows = sqlx::query!(
        r#"SELECT i.id, i.worker, i.state, host(i.address) AS address, i.port, i.running, i.exit_code, i.stopped,
                  i.observed_at, v.kind AS "kind?", v.message AS "message?", v.observed_at AS "violated_at?"
           FROM instances i JOIN deployments d ON d.id = i.deployment_id JOIN apps a ON a.id = d.app_id
           LEFT JOIN LATERAL (SELECT * FROM violations WHERE instance_id = i.id ORDER BY observed_at DESC LIMIT 1) v
                ON true
           WHERE a.owner_id = $1 AND i.deployment_id = $2 ORDER BY i.created_at"#,
        owner.0,
        id.0
    )
    .fetch_all(connection)
    .await
    .map_err(doing(operation))?;
    rows.into_iter()
        .map(|row| {
            Ok(Instance {
                id: InstanceId(row.id),
                worker: row.worker.parse()?,
                state: row.state.parse()?,
                address: socket_address(row.address, row.port)?,
                running: row.running,
                exit_code: row.exit_code,
                stopped: row.stopped,
                violation: Violation::from_columns(row.kind, row.message, row.violated_at)?,
                observed_at: row.observed_at,
            })
        })
        .collect::<Result<_, BoxError>>()
        .map_err(inconsistent(operation))
}

/// Removes what is over of each app, with its jobs and instances, but the newest `kept_per_app` deployments that were in
/// service and as many that were not. What a worker may still have something of stays, too, and so does that a live one was tried
/// to be moved. Returns how many.
///
/// # Errors
/// The database is away.
pub async fn prune(connection: &mut PgConnection, kept_per_app: u32) -> Result<u64, StoreError> {
    let removed = sqlx::query!(
        "WITH ended AS (
             SELECT id, row_number() OVER (
                 PARTITION BY app_id, state IN ('superseded', 'stopped') ORDER BY number DESC) AS place
             FROM deployments WHERE state IN ('superseded', 'stopped', 'failed', 'cancelled')
         ), last_on_worker AS (
             SELECT DISTINCT ON (d.app_id, i.worker) i.deployment_id
             FROM instances i JOIN deployments d ON d.id = i.deployment_id
             ORDER BY d.app_id, i.worker, i.created_at DESC
         )
         DELETE FROM deployments d USING ended
         WHERE d.id = ended.id AND ended.place > $1
           AND d.id NOT IN (SELECT deployment_id FROM last_on_worker)
           AND NOT EXISTS (SELECT FROM apps WHERE routed_deployment_id = d.id)
           AND NOT EXISTS (SELECT FROM jobs WHERE deployment_id = d.id AND state IN ('pending', 'running'))
           AND NOT EXISTS (SELECT FROM instances WHERE deployment_id = d.id AND state NOT IN ('stopped', 'failed'))
           AND NOT EXISTS (SELECT FROM deployments r WHERE r.id = d.repeats AND r.state = 'live')
           AND NOT EXISTS (SELECT FROM deployments later JOIN jobs ON jobs.deployment_id = later.id
                           WHERE later.repeats = d.id AND jobs.state IN ('pending', 'running'))",
        i64::from(kept_per_app)
    );
    let removed = removed.execute(connection).await.map_err(doing("remove old deployments"))?;
    Ok(removed.rows_affected())
}

fn socket_address(address: Option<String>, port: Option<i32>) -> Result<Option<SocketAddr>, BoxError> {
    let (Some(address), Some(port)) = (address, port) else { return Ok(None) };
    Ok(Some(SocketAddr::new(address.parse::<IpAddr>()?, port.try_into()?)))
}
