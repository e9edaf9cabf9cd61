//! `POST /v1/apps/{name}/deployments`: bring an app's newest commit, or a given one, into service.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use wisehosting_domain::{
    id::{DeploymentId, JobId},
    name::Label,
    source::{Commit, GitRef},
};
use wisehosting_node::random;
use wisehosting_store::{apps, deployments, jobs, pool};

use super::{Deployment, load};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::{JsonBody, PathOf},
    state::AppState,
};

/// What to deploy. All of it may be absent.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// Branch or tag; the one in the app's settings if absent.
    #[schema(value_type = Option<String>, example = "main")]
    branch: Option<GitRef>,
    /// A commit of that branch, 40 hexadecimal digits; its newest if absent.
    #[schema(value_type = Option<String>)]
    commit: Option<Commit>,
}

/// Deploy an app. The version that is served stays in service until the new one is.
#[utoipa::path(
    post, path = "/v1/apps/{name}/deployments", tag = "deployments", operation_id = "create_deployment",
    params(("name" = String, Path, description = "Name of the app.")),
    request_body = CreateDeployment,
    responses(
        (status = 201, description = "The queued deployment.", body = Deployment),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
        (status = 422, description = "A field cannot be used.", body = ErrorBody),
    ),
)]
pub async fn create_deployment(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
    JsonBody(body): JsonBody<CreateDeployment>,
) -> Result<(StatusCode, Json<Deployment>), Problem> {
    let app = apps::lock(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    let mut snapshot = app.settings;
    snapshot.source.branch = body.branch.or(snapshot.source.branch);
    snapshot.source.commit = body.commit;

    let id = DeploymentId(random::uuid());
    let now = state.clock.now();
    deployments::create(&mut db, app.id, id, &snapshot, None, now).await?;
    jobs::enqueue_deploy(&mut db, JobId(random::uuid()), app.id, id, now).await?;
    let deployment = load(&mut db, user.id, id, &state.config.apps).await?;
    pool::commit(db).await?;
    Ok((StatusCode::CREATED, Json(deployment)))
}
