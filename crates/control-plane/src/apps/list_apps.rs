//! `GET /v1/apps`: the user's apps.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use wisehosting_store::{apps, instances};

use super::{App, AppUsage, Doing};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    state::AppState,
};

/// Apps, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct AppList {
    apps: Vec<App>,
}

/// List your apps, by name.
#[utoipa::path(
    get, path = "/v1/apps", tag = "apps", operation_id = "list_apps",
    responses(
        (status = 200, description = "All of them.", body = AppList),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn list_apps(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
) -> Result<Json<AppList>, Problem> {
    let doing = Doing::load(&mut db, user.id).await?;
    let apps = apps::list(&mut db, user.id).await?;
    let placed = instances::placed(&mut db, user.id).await?;
    let now = state.clock.now();
    let apps = apps.into_iter().map(|app| {
        let usage = AppUsage::of(app.id, &placed, state.hub.stats(), now);
        App { usage, ..doing.show(app, &state.config.apps) }
    });
    Ok(Json(AppList { apps: apps.collect() }))
}
