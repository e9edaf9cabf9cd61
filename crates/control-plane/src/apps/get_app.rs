//! `GET /v1/apps/{name}`: one app.

use axum::{Json, extract::State};
use wisehosting_domain::name::Label;
use wisehosting_store::{apps, instances};

use super::{App, AppUsage, Doing};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::PathOf,
    state::AppState,
};

/// Show one of your apps.
#[utoipa::path(
    get, path = "/v1/apps/{name}", tag = "apps", operation_id = "get_app",
    params(("name" = String, Path, description = "Name of the app.")),
    responses(
        (status = 200, description = "The app.", body = App),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn get_app(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
) -> Result<Json<App>, Problem> {
    let app = apps::get(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    let doing = Doing::load(&mut db, user.id).await?;
    let placed = instances::placed(&mut db, user.id).await?;
    let usage = AppUsage::of(app.id, &placed, state.hub.stats(), state.clock.now());
    Ok(Json(App { usage, ..doing.show(app, &state.config.apps) }))
}
