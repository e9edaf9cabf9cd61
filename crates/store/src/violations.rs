//! Limits that instances broke: each stored once, read with what they brought down.

use crate::{
    PgConnection, StoreError,
    error::{doing, inconsistent},
};
use time::OffsetDateTime;
use wisehosting_domain::{
    id::{DeploymentId, InstanceId, UserId},
    name::Label,
    state::ViolationKind,
};

/// A limit that an instance broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which limit.
    pub kind: ViolationKind,
    /// What happened and what to do.
    pub message: String,
    /// When, by the worker's clock.
    pub observed_at: OffsetDateTime,
}

impl Violation {
    /// From the columns of a join that may have found none.
    pub(crate) fn from_columns(
        kind: Option<String>,
        message: Option<String>,
        observed_at: Option<OffsetDateTime>,
    ) -> Result<Option<Self>, wisehosting_domain::state::UnknownState> {
        let (Some(kind), Some(message), Some(observed_at)) = (kind, message, observed_at) else {
            return Ok(None);
        };
        Ok(Some(Self { kind: kind.parse()?, message, observed_at }))
    }
}

/// A live deployment of which no instance runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// Which.
    pub deployment_id: DeploymentId,
    /// The newest limit that one of its instances broke.
    pub violation: Option<Violation>,
}

/// Stores what an instance of `worker` did; returns whether it is news.
///
/// # Errors
/// The database is away.
pub async fn store(
    conn: &mut PgConnection,
    worker: &Label,
    instance: InstanceId,
    violation: &Violation,
) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "INSERT INTO violations (instance_id, kind, message, observed_at)
         SELECT id, $3, $4, $5 FROM instances WHERE id = $1 AND worker = $2
         ON CONFLICT DO NOTHING",
        instance.0,
        worker.as_str(),
        violation.kind.as_str(),
        // Postgres stores any character but this one.
        violation.message.replace('\0', "\u{fffd}"),
        violation.observed_at
    )
    .execute(conn)
    .await
    .map_err(doing("store a violation"))?;
    Ok(stored.rows_affected() > 0)
}

/// The owner's live deployments of which no instance runs, and why.
///
/// # Errors
/// The database is away.
pub async fn down(conn: &mut PgConnection, owner: UserId) -> Result<Vec<Down>, StoreError> {
    let operation = "list the deployments that are down";
    let rows = sqlx::query!(
        r#"SELECT d.id, v.kind AS "kind?", v.message AS "message?", v.observed_at AS "observed_at?"
           FROM deployments d JOIN apps a ON a.id = d.app_id
           LEFT JOIN LATERAL (
               SELECT v.kind, v.message, v.observed_at FROM violations v JOIN instances i ON i.id = v.instance_id
               WHERE i.deployment_id = d.id AND i.stopped ORDER BY v.observed_at DESC LIMIT 1
           ) v ON true
           WHERE a.owner_id = $1 AND a.deleted_at IS NULL AND d.state = 'live'
             AND EXISTS (SELECT FROM instances i WHERE i.deployment_id = d.id AND i.state = 'healthy' AND i.stopped)
             AND NOT EXISTS (SELECT FROM instances i
                             WHERE i.deployment_id = d.id AND i.state = 'healthy' AND NOT i.stopped)"#,
        owner.0
    )
    .fetch_all(conn)
    .await
    .map_err(doing(operation))?;
    rows.into_iter()
        .map(|row| {
            let violation = Violation::from_columns(row.kind, row.message, row.observed_at)
                .map_err(inconsistent(operation))?;
            Ok(Down { deployment_id: DeploymentId(row.id), violation })
        })
        .collect()
}
