//! A deployment's way through its states: forwards only, with the time of each step.

use crate::{StoreError, error::doing};
use sqlx::PgConnection;
use time::OffsetDateTime;
use wisehosting_domain::{id::DeploymentId, source::Commit, state::DeploymentState};

/// Moves a deployment on to `state` and notes the time; says whether it moved.
///
/// It does not move when it is already there or further, as after a message that arrives twice.
///
/// # Errors
/// The database is away.
pub async fn advance(
    conn: &mut PgConnection,
    id: DeploymentId,
    state: DeploymentState,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    move_to(conn, id, state, None, now).await
}

/// Ends a deployment that has not come into service, with a sentence for its owner; says whether it did.
///
/// # Errors
/// The database is away.
pub async fn fail(
    conn: &mut PgConnection,
    id: DeploymentId,
    message: &str,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    move_to(conn, id, DeploymentState::Failed, Some(message), now).await
}

/// What the worker built.
///
/// # Errors
/// The database is away.
pub async fn built(
    conn: &mut PgConnection,
    id: DeploymentId,
    commit: &Commit,
    image_id: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE deployments SET commit = $2, image_id = $3 WHERE id = $1",
        id.0,
        commit.as_str(),
        image_id
    )
    .execute(conn)
    .await
    .map_err(doing("note what a deployment built"))
    .map(|_| ())
}

async fn move_to(
    conn: &mut PgConnection,
    id: DeploymentId,
    state: DeploymentState,
    message: Option<&str>,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    let from: Vec<String> = DeploymentState::ALL
        .iter()
        .filter(|earlier| earlier.may_become(state))
        .map(ToString::to_string)
        .collect();
    let ends = state.is_final() || state == DeploymentState::Live;
    let moved = sqlx::query!(
        "WITH moved AS (
             UPDATE deployments
             SET state = $2, message = coalesce($4, message),
                 finished_at = CASE WHEN $5 THEN coalesce(finished_at, $6) ELSE finished_at END
             WHERE id = $1 AND state = ANY($3)
             RETURNING id
         )
         INSERT INTO deployment_steps (deployment_id, state, at) SELECT id, $2, $6 FROM moved
         ON CONFLICT DO NOTHING",
        id.0,
        state.as_str(),
        &from,
        message,
        ends,
        now
    )
    .execute(conn)
    .await
    .map_err(doing("move a deployment on"))?;
    Ok(moved.rows_affected() > 0)
}
