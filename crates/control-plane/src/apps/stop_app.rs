//! `POST /v1/apps/{name}/stop`: an app serves no longer, but is kept.

use axum::{Json, extract::State};
use wisehosting_domain::name::Label;
use wisehosting_store::{apps, pool};

use super::{App, Doing};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::PathOf,
    state::AppState,
};

/// Stop an app: its routes go first, then its instances are drained and stopped. What is being deployed is called off.
#[utoipa::path(
    post, path = "/v1/apps/{name}/stop", tag = "apps", operation_id = "stop_app",
    params(("name" = String, Path, description = "Name of the app.")),
    responses(
        (status = 200, description = "It is stopped, or was before; its last requests may still be answered.", body = App),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn stop_app(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
) -> Result<Json<App>, Problem> {
    let app = apps::lock(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    apps::mark_stopped(&mut db, app.id, state.clock.now()).await?;
    let app = apps::get(&mut db, user.id, &name).await?;
    let doing = Doing::load(&mut db, user.id).await?;
    pool::commit(db).await?;
    state.signals.rollout.notify_one();
    Ok(Json(doing.show(app, &state.config.apps)))
}
