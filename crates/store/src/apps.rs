//! Apps and their settings.
//!
//! Every function takes the owner: somebody else's app is not found, which looks the same as none. An app that is being
//! deleted is gone for its owner, but keeps its name until its last instance is.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use wisehosting_domain::{
    id::{AppId, DeploymentId, UserId},
    limits::Limits,
    login::Username,
    name::Label,
    preset::Preset,
    secret::Sealed,
    settings::Settings,
    source::Source,
};

use crate::{
    PgConnection, StoreError,
    error::{doing, inconsistent},
};

/// A query for apps; takes what follows the table.
macro_rules! select_apps {
    ($rest:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            "SELECT id, name, repository, branch, port, health_path, health_timeout_ms, memory_bytes, cpu_millis, pids,
                    bandwidth_bits_per_s, disk_bytes, environment, preset, read_only, login, routed_deployment_id,
                    stopped_at, created_at
             FROM apps " + $rest,
            $($argument),*
        )
    };
}

/// An app.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    /// Which.
    pub id: AppId,
    /// Unique over all owners.
    pub name: Label,
    /// What its next deployment copies.
    pub settings: Settings,
    /// The login for its repository, if that is private. Deployments do not copy it: the newest one is used.
    pub login: Option<RepositoryLogin>,
    /// The deployment that its host names lead to.
    pub routed: Option<DeploymentId>,
    /// Whether its owner has stopped it.
    pub stopped: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// The login of a private repository, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryLogin {
    /// Scheme, host and port of the repository that it was given for: it is sent nowhere else.
    pub origin: String,
    /// Who asks.
    pub username: Username,
    /// Sealed for its app and its origin.
    pub password: Sealed,
    /// When it was given.
    #[serde(with = "time::serde::rfc3339")]
    pub set_at: OffsetDateTime,
}

struct Row {
    id: uuid::Uuid,
    name: String,
    repository: String,
    branch: Option<String>,
    port: i32,
    health_path: String,
    health_timeout_ms: i64,
    memory_bytes: i64,
    cpu_millis: i32,
    pids: i32,
    bandwidth_bits_per_s: Option<i64>,
    disk_bytes: Option<i64>,
    environment: serde_json::Value,
    preset: Option<String>,
    read_only: Option<bool>,
    login: Option<serde_json::Value>,
    routed_deployment_id: Option<uuid::Uuid>,
    stopped_at: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl TryFrom<Row> for App {
    type Error = BoxError;

    fn try_from(row: Row) -> Result<Self, BoxError> {
        let limits =
            Limits::new(row.memory_bytes.try_into()?, row.cpu_millis.try_into()?, row.pids.try_into()?)?;
        let limits = limits.with_bandwidth(row.bandwidth_bits_per_s.map(TryInto::try_into).transpose()?)?;
        let limits = limits.with_disk(row.disk_bytes.map(TryInto::try_into).transpose()?)?;
        let branch = row.branch.map(TryInto::try_into).transpose()?;
        let settings = Settings {
            source: Source { repository: row.repository.try_into()?, branch, commit: None },
            preset: row.preset.map(|preset| preset.parse()).transpose()?,
            read_only: row.read_only,
            limits,
            port: row.port.try_into()?,
            health_path: row.health_path,
            health_timeout_ms: row.health_timeout_ms.try_into()?,
            environment: serde_json::from_value(row.environment)?,
        };
        Ok(Self {
            id: AppId(row.id),
            name: row.name.try_into()?,
            settings,
            login: row.login.map(serde_json::from_value).transpose()?,
            routed: row.routed_deployment_id.map(DeploymentId),
            stopped: row.stopped_at.is_some(),
            created_at: row.created_at,
        })
    }
}

/// The settings as the columns hold them.
struct SettingsRow<'a> {
    repository: &'a str,
    branch: Option<&'a str>,
    port: i32,
    health_path: &'a str,
    health_timeout_ms: i64,
    limits: LimitColumns,
    environment: serde_json::Value,
    preset: Option<&'static str>,
    read_only: Option<bool>,
}

struct LimitColumns {
    memory_bytes: i64,
    cpu_millis: i32,
    pids: i32,
    bandwidth_bits_per_s: Option<i64>,
    disk_bytes: Option<i64>,
}

impl<'a> TryFrom<&'a Settings> for SettingsRow<'a> {
    type Error = BoxError;

    fn try_from(settings: &'a Settings) -> Result<Self, BoxError> {
        Ok(Self {
            repository: settings.source.repository.as_str(),
            branch: settings.source.branch.as_ref().map(|branch| branch.as_str()),
            port: settings.port.into(),
            health_path: &settings.health_path,
            health_timeout_ms: settings.health_timeout_ms.try_into()?,
            limits: settings.limits.try_into()?,
            environment: serde_json::to_value(&settings.environment)?,
            preset: settings.preset.map(Preset::as_str),
            read_only: settings.read_only,
        })
    }
}

impl TryFrom<Limits> for LimitColumns {
    type Error = BoxError;

    fn try_from(limits: Limits) -> Result<Self, BoxError> {
        Ok(Self {
            memory_bytes: limits.memory_bytes().try_into()?,
            cpu_millis: limits.cpu_millis().try_into()?,
            pids: limits.pids().try_into()?,
            bandwidth_bits_per_s: limits.bandwidth_bits_per_s().map(TryInto::try_into).transpose()?,
            disk_bytes: limits.disk_bytes().map(TryInto::try_into).transpose()?,
        })
    }
}

/// Stores a new app.
///
/// # Errors
/// [`StoreError::Conflict`]: the name is taken, by anybody.
pub async fn create(connection: &mut PgConnection, owner: UserId, app: &App) -> Result<(), StoreError> {
    let columns = SettingsRow::try_from(&app.settings).map_err(inconsistent("create the app"))?;
    let query = sqlx::query!(
        "INSERT INTO apps (id, owner_id, name, repository, branch, port, health_path, health_timeout_ms,
                           memory_bytes, cpu_millis, pids, bandwidth_bits_per_s, environment, created_at, preset,
                           read_only, disk_bytes)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        app.id.0,
        owner.0,
        app.name.as_str(),
        columns.repository,
        columns.branch,
        columns.port,
        columns.health_path,
        columns.health_timeout_ms,
        columns.limits.memory_bytes,
        columns.limits.cpu_millis,
        columns.limits.pids,
        columns.limits.bandwidth_bits_per_s,
        columns.environment,
        app.created_at,
        columns.preset,
        columns.read_only,
        columns.limits.disk_bytes
    );
    query.execute(connection).await.map_err(doing("create the app")).map(drop)
}

/// The owner's apps, by name.
///
/// # Errors
/// The database is away.
pub async fn list(connection: &mut PgConnection, owner: UserId) -> Result<Vec<App>, StoreError> {
    let query = select_apps!("WHERE owner_id = $1 AND deleted_at IS NULL ORDER BY name", owner.0);
    let rows = query.fetch_all(connection).await.map_err(doing("list the apps"))?;
    rows.into_iter().map(App::try_from).collect::<Result<_, _>>().map_err(inconsistent("list the apps"))
}

/// The owner's app of this name.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(connection: &mut PgConnection, owner: UserId, name: &Label) -> Result<App, StoreError> {
    let query =
        select_apps!("WHERE owner_id = $1 AND name = $2 AND deleted_at IS NULL", owner.0, name.as_str());
    let row = query.fetch_one(connection).await.map_err(doing("load the app"))?;
    App::try_from(row).map_err(inconsistent("load the app"))
}

/// The owner's app of this name; until the transaction ends, nobody else changes or deploys it.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn lock(connection: &mut PgConnection, owner: UserId, name: &Label) -> Result<App, StoreError> {
    let query = sqlx::query!(
        "SELECT id FROM apps WHERE owner_id = $1 AND name = $2 AND deleted_at IS NULL FOR UPDATE",
        owner.0,
        name.as_str()
    );
    query.fetch_one(&mut *connection).await.map_err(doing("lock the app"))?;
    get(connection, owner, name).await
}

/// Replaces the settings of the owner's app; deployments that exist keep theirs.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn update(
    connection: &mut PgConnection,
    owner: UserId,
    name: &Label,
    settings: &Settings,
) -> Result<(), StoreError> {
    let columns = SettingsRow::try_from(settings).map_err(inconsistent("change the app"))?;
    let query = sqlx::query!(
        "UPDATE apps SET repository = $3, branch = $4, port = $5, health_path = $6, health_timeout_ms = $7,
                         memory_bytes = $8, cpu_millis = $9, pids = $10, bandwidth_bits_per_s = $11,
                         environment = $12, preset = $13, read_only = $14, disk_bytes = $15
         WHERE owner_id = $1 AND name = $2 AND deleted_at IS NULL RETURNING id",
        owner.0,
        name.as_str(),
        columns.repository,
        columns.branch,
        columns.port,
        columns.health_path,
        columns.health_timeout_ms,
        columns.limits.memory_bytes,
        columns.limits.cpu_millis,
        columns.limits.pids,
        columns.limits.bandwidth_bits_per_s,
        columns.environment,
        columns.preset,
        columns.read_only,
        columns.limits.disk_bytes
    );
    query.fetch_one(connection).await.map_err(doing("change the app")).map(drop)
}

/// Sets or removes the login of an app's repository. The caller has made the app or [locked](lock) it.
///
/// # Errors
/// The database is away.
pub async fn set_login(
    connection: &mut PgConnection,
    id: AppId,
    login: Option<&RepositoryLogin>,
) -> Result<(), StoreError> {
    let operation = "set the login of the app's repository";
    let login = login.map(serde_json::to_value).transpose().map_err(inconsistent(operation))?;
    let query = sqlx::query!("UPDATE apps SET login = $2 WHERE id = $1", id.0, login);
    query.execute(connection).await.map_err(doing(operation)).map(drop)
}

/// Marks an app that the caller has [locked](lock) as one that is not to serve: the rollout takes its routes away and
/// stops its instances. Its next deployment takes the mark away.
///
/// # Errors
/// The database is away.
pub async fn mark_stopped(
    connection: &mut PgConnection,
    id: AppId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let query =
        sqlx::query!("UPDATE apps SET stopped_at = coalesce(stopped_at, $2) WHERE id = $1", id.0, now);
    query.execute(connection).await.map_err(doing("stop the app")).map(drop)
}

/// Marks the owner's app as deleted: the rollout takes its routes away, stops its instances and removes the row.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn mark_deleted(
    connection: &mut PgConnection,
    owner: UserId,
    name: &Label,
    now: OffsetDateTime,
) -> Result<AppId, StoreError> {
    let query = sqlx::query!(
        "UPDATE apps SET deleted_at = $3 WHERE owner_id = $1 AND name = $2 AND deleted_at IS NULL RETURNING id",
        owner.0,
        name.as_str(),
        now
    );
    let row = query.fetch_one(connection).await.map_err(doing("delete the app"))?;
    Ok(AppId(row.id))
}
