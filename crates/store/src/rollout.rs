//! What the rollout reconciler reads and writes: one app at a time, with its row locked.

use crate::{
    StoreError,
    error::{doing, inconsistent},
    routes,
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId},
    rollout::{App, Deployment, Draining, Goal, Instance, Leftovers, Routed},
};

/// The apps that are not at rest: something of them waits to be routed, promoted, moved, drained,
/// stopped or deleted.
///
/// # Errors
/// The database is away.
pub async fn restless(conn: &mut PgConnection) -> Result<Vec<AppId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM apps
           WHERE deleted_at IS NOT NULL OR stopped_at IS NOT NULL AND routed_deployment_id IS NOT NULL
           UNION
           SELECT d.app_id FROM deployments d JOIN apps a ON a.id = d.app_id
           WHERE d.state = 'routing' OR d.state = 'live' AND d.id IS DISTINCT FROM a.routed_deployment_id
              OR d.state IN ('queued', 'cloning', 'building', 'starting', 'checking') AND a.stopped_at IS NOT NULL
           UNION
           SELECT d.app_id FROM instances i JOIN deployments d ON d.id = i.deployment_id
           WHERE i.state = 'draining'
              OR i.state = 'healthy' AND d.state IN ('superseded', 'stopped', 'failed', 'cancelled')
           UNION
           SELECT d.app_id FROM instances_to_move i JOIN deployments d ON d.id = i.deployment_id
           WHERE d.state = 'live'
           ORDER BY 1"#
    )
    .fetch_all(conn)
    .await
    .map_err(doing("look for apps that are not at rest"))?;
    Ok(ids.into_iter().map(AppId).collect())
}

struct AppRow {
    routed_deployment_id: Option<Uuid>,
    routed_generation: Option<i64>,
    routed_at: Option<OffsetDateTime>,
    stopped_at: Option<OffsetDateTime>,
    deleted_at: Option<OffsetDateTime>,
}

impl AppRow {
    fn routed(&self, watch: Watch) -> Result<Option<Routed>, StoreError> {
        let (Some(id), Some(generation), Some(at)) =
            (self.routed_deployment_id, self.routed_generation, self.routed_at)
        else {
            return Ok(None);
        };
        Ok(Some(Routed {
            deployment_id: DeploymentId(id),
            generation: generation.try_into().map_err(inconsistent(LOAD))?,
            age_ms: watch.age_ms(at),
        }))
    }
}

struct InstanceRow {
    deployment_id: Uuid,
    number: i32,
    deployment_state: String,
    called_off: bool,
    id: Option<Uuid>,
    state: Option<String>,
    draining_generation: Option<i64>,
    draining_at: Option<OffsetDateTime>,
    to_move: bool,
}

impl InstanceRow {
    fn instance(&self, watch: Watch) -> Result<Option<Instance>, StoreError> {
        let (Some(id), Some(state)) = (self.id, &self.state) else { return Ok(None) };
        let draining = match (self.draining_generation, self.draining_at) {
            (Some(generation), Some(at)) => Some(Draining {
                generation: generation.try_into().map_err(inconsistent(LOAD))?,
                age_ms: watch.age_ms(at),
            }),
            _ => None,
        };
        let state = state.parse().map_err(inconsistent(LOAD))?;
        Ok(Some(Instance { id: InstanceId(id), state, draining, to_move: self.to_move }))
    }
}

/// Since when the edges could be heard: a wait that the control plane slept through does not count.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// When the control plane could last begin to listen: it had started, Postgres was there, and nobody had set its clock.
    pub since: OffsetDateTime,
    /// The time.
    pub now: OffsetDateTime,
}

impl Watch {
    fn age_ms(self, at: OffsetDateTime) -> u64 {
        // A time to come is of before the clock was set back.
        let began = if at > self.now { self.since } else { at.max(self.since) };
        (self.now - began).whole_milliseconds().try_into().unwrap_or(0)
    }
}

const LOAD: &str = "load an app for its rollout";

/// Locks an app and loads it with the deployments that matter; none if it is gone.
///
/// # Errors
/// The database is away.
pub async fn lock(conn: &mut PgConnection, app_id: AppId, watch: Watch) -> Result<Option<App>, StoreError> {
    let app = sqlx::query_as!(
        AppRow,
        "SELECT routed_deployment_id, routed_generation, routed_at, stopped_at, deleted_at FROM apps WHERE id = $1 FOR NO KEY UPDATE",
        app_id.0
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(doing(LOAD))?;
    let Some(app) = app else { return Ok(None) };
    let rows = sqlx::query_as!(
        InstanceRow,
        r#"SELECT d.id AS deployment_id, d.number, d.state AS deployment_state,
                  EXISTS (SELECT FROM jobs WHERE deployment_id = d.id AND cancel_requested_at IS NOT NULL)
                      AS "called_off!", i.id AS "id?", i.state AS "state?",
                  i.draining_generation, i.draining_at,
                  EXISTS (SELECT FROM instances_to_move WHERE id = i.id) AS "to_move!"
           FROM deployments d
           LEFT JOIN instances i ON i.deployment_id = d.id AND i.state NOT IN ('stopped', 'failed')
           WHERE d.app_id = $1 AND (i.id IS NOT NULL OR d.state NOT IN ('superseded', 'stopped', 'failed', 'cancelled'))
           ORDER BY d.number, i.created_at"#,
        app_id.0
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(doing(LOAD))?;
    let mut deployments = Vec::<Deployment>::new();
    for row in rows {
        if deployments.last().is_none_or(|last| last.id.0 != row.deployment_id) {
            deployments.push(Deployment {
                id: DeploymentId(row.deployment_id),
                number: row.number,
                state: row.deployment_state.parse().map_err(inconsistent(LOAD))?,
                called_off: row.called_off,
                instances: Vec::new(),
            });
        }
        if let (Some(deployment), Some(instance)) = (deployments.last_mut(), row.instance(watch)?) {
            deployment.instances.push(instance);
        }
    }
    let goal = match (app.deleted_at, app.stopped_at) {
        (Some(_), _) => Goal::Gone(leftovers(conn, app_id).await?),
        (None, Some(_)) => Goal::Rest,
        (None, None) => Goal::Serve,
    };
    Ok(Some(App { goal, routed: app.routed(watch)?, deployments }))
}

/// What the workers that ever had an instance of an app may still have of it. One that the configuration no longer names
/// cannot be told anything.
async fn leftovers(conn: &mut PgConnection, app_id: AppId) -> Result<Leftovers, StoreError> {
    let workers = sqlx::query!(
        r#"SELECT w.name, count(j.id) AS "told!", count(j.id) FILTER (WHERE j.state <> 'succeeded') AS "open!"
           FROM workers w
           JOIN (SELECT DISTINCT i.worker FROM instances i JOIN deployments d ON d.id = i.deployment_id
                 WHERE d.app_id = $1) had ON had.worker = w.name
           LEFT JOIN jobs j ON j.app_id = $1 AND j.worker = w.name AND j.kind = 'delete'
           WHERE w.removed_at IS NULL GROUP BY w.name ORDER BY w.name"#,
        app_id.0
    )
    .fetch_all(conn)
    .await
    .map_err(doing(LOAD))?;
    let mut leftovers = Leftovers::default();
    for worker in workers {
        leftovers.awaited |= worker.open > 0;
        if worker.told == 0 {
            leftovers.untold.push(worker.name.parse().map_err(inconsistent(LOAD))?);
        }
    }
    Ok(leftovers)
}

/// Lets an app's host names lead to a deployment, or nowhere, in a new generation of the route table.
///
/// # Errors
/// The database is away.
pub async fn route(
    conn: &mut PgConnection,
    app_id: AppId,
    deployment_id: Option<DeploymentId>,
    now: OffsetDateTime,
) -> Result<u64, StoreError> {
    let generation = routes::next_generation(conn).await?;
    sqlx::query!(
        "UPDATE apps SET routed_deployment_id = $2, routed_generation = $3, routed_at = $4 WHERE id = $1",
        app_id.0,
        deployment_id.map(|id| id.0),
        i64::try_from(generation).unwrap_or(i64::MAX),
        now
    )
    .execute(conn)
    .await
    .map_err(doing("route an app"))?;
    Ok(generation)
}

/// Notes that an instance is no longer routed to, in the generation that there is now.
///
/// # Errors
/// The database is away.
pub async fn drain(
    conn: &mut PgConnection,
    instance_id: InstanceId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE instances
         SET state = 'draining', draining_at = $2, draining_generation = (SELECT generation FROM route_table)
         WHERE id = $1",
        instance_id.0,
        now
    )
    .execute(conn)
    .await
    .map_err(doing("drain an instance"))
    .map(|_| ())
}

/// Removes an app that was deleted, with everything that was kept about it.
///
/// # Errors
/// The database is away.
pub async fn remove(conn: &mut PgConnection, app_id: AppId) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM apps WHERE id = $1 AND deleted_at IS NOT NULL", app_id.0)
        .execute(conn)
        .await
        .map_err(doing("remove an app"))
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_from_when_somebody_listened_by_a_clock_that_may_be_set_back() {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        for (began, since, now, expected_ms) in [
            (at(10), at(5), at(12), 2_000),
            (at(10), at(11), at(12), 1_000),
            (at(3_600), at(5), at(12), 7_000),
            (at(3_600), at(12), at(12), 0),
        ] {
            assert_eq!(Watch { since, now }.age_ms(began), expected_ms, "{began} {since} {now}");
        }
    }
}
