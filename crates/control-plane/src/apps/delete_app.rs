//! `DELETE /v1/apps/{name}`: an app goes, with its containers and its name.

use axum::{extract::State, http::StatusCode};
use wisehosting_domain::name::Label;
use wisehosting_store::{apps, pool};

use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::PathOf,
    state::AppState,
};

/// Delete an app: its routes go first, then its instances are drained and stopped, then its images and logs are removed.
#[utoipa::path(
    delete, path = "/v1/apps/{name}", tag = "apps", operation_id = "delete_app",
    params(("name" = String, Path, description = "Name of the app.")),
    responses(
        (status = 204, description = "It is gone for you; its workers are removing what they have of it."),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn delete_app(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
) -> Result<StatusCode, Problem> {
    let deleted = apps::mark_deleted(&mut db, user.id, &name, state.clock.now()).await;
    deleted.map_err(Problem::missing("app"))?;
    pool::commit(db).await?;
    state.signals.rollout.notify_one();
    Ok(StatusCode::NO_CONTENT)
}
