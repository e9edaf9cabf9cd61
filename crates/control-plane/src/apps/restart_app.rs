//! `POST /v1/apps/{name}/restart` and `/start`: new instances of the version that is in service, or was.
//!
//! Both make a deployment that repeats an earlier one: its commit and image, with the settings that the app has now. So
//! a restart loses no request, and nothing is built where the image is kept.

use axum::{Json, extract::State, http::StatusCode};
use wisehosting_domain::{
    id::{DeploymentId, JobId},
    name::Label,
};
use wisehosting_node::random;
use wisehosting_store::{apps, deployments, jobs, pool};

use crate::{
    auth::SignedIn,
    deployments::{Deployment, load},
    error::{ErrorBody, Problem},
    extract::PathOf,
    state::AppState,
};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} has never been in service: deploy it first.")]
    NeverServed(Label),
    #[error("{0} is being deployed, which starts it anew: wait for that, or cancel it.")]
    UnderWay(Label),
    #[error("{0} is not stopped.")]
    NotStopped(Label),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::NeverServed(_) => "never_served",
            Error::UnderWay(_) => "under_way",
            Error::NotStopped(_) => "not_stopped",
        };
        Self::new(StatusCode::CONFLICT, code, error.to_string())
    }
}

/// Restart an app without losing a request: new instances of the version in service, with the app's settings of now.
#[utoipa::path(
    post, path = "/v1/apps/{name}/restart", tag = "apps", operation_id = "restart_app",
    params(("name" = String, Path, description = "Name of the app.")),
    responses(
        (status = 201, description = "The queued deployment.", body = Deployment),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
        (status = 409, description = "It has never been in service, or is being deployed.", body = ErrorBody),
    ),
)]
pub async fn restart_app(
    State(state): State<AppState>,
    mut by: SignedIn,
    PathOf(name): PathOf<Label>,
) -> Result<(StatusCode, Json<Deployment>), Problem> {
    let app = apps::lock(&mut by.db, by.user.id, &name).await.map_err(Problem::missing("app"))?;
    repeat(&state, by, app).await
}

/// Start an app that was stopped: new instances of the version that was in service, with the app's settings of now.
#[utoipa::path(
    post, path = "/v1/apps/{name}/start", tag = "apps", operation_id = "start_app",
    params(("name" = String, Path, description = "Name of the app.")),
    responses(
        (status = 201, description = "The queued deployment.", body = Deployment),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
        (status = 409, description = "It is not stopped, or has never been in service.", body = ErrorBody),
    ),
)]
pub async fn start_app(
    State(state): State<AppState>,
    mut by: SignedIn,
    PathOf(name): PathOf<Label>,
) -> Result<(StatusCode, Json<Deployment>), Problem> {
    let app = apps::lock(&mut by.db, by.user.id, &name).await.map_err(Problem::missing("app"))?;
    if !app.stopped {
        return Err(Error::NotStopped(name).into());
    }
    repeat(&state, by, app).await
}

/// Queues a deployment of what was in service last.
async fn repeat(
    state: &AppState,
    SignedIn { user, mut db }: SignedIn,
    app: apps::App,
) -> Result<(StatusCode, Json<Deployment>), Problem> {
    let newest = deployments::list(&mut db, user.id, Some(app.id), 1).await?;
    if !app.stopped && newest.first().is_some_and(|newest| newest.state.is_in_progress()) {
        return Err(Error::UnderWay(app.name).into());
    }
    let last = deployments::last_in_service(&mut db, user.id, app.id).await?;
    let last = last.ok_or(Error::NeverServed(app.name))?;
    let (id, repeats) = (DeploymentId(random::uuid()), last.id);
    let now = state.clock.now();
    deployments::create(&mut db, app.id, id, &last.repeated(Some(app.settings)), Some(repeats), now).await?;
    jobs::enqueue_deploy(&mut db, JobId(random::uuid()), app.id, id, now).await?;
    let deployment = load(&mut db, user.id, id, &state.config.apps).await?;
    pool::commit(db).await?;
    Ok((StatusCode::CREATED, Json(deployment)))
}
