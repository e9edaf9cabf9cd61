//! `GET /v1/deployments/{id}`: one deployment with its steps and containers.

use axum::{Json, extract::State};
use wisehosting_domain::id::DeploymentId;

use super::{Deployment, load};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::PathOf,
    state::AppState,
};

/// Show one of your deployments.
#[utoipa::path(
    get, path = "/v1/deployments/{id}", tag = "deployments", operation_id = "get_deployment",
    params(("id" = uuid::Uuid, Path, description = "The deployment.")),
    responses(
        (status = 200, description = "The deployment.", body = Deployment),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such deployment.", body = ErrorBody),
    ),
)]
pub async fn get_deployment(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(id): PathOf<DeploymentId>,
) -> Result<Json<Deployment>, Problem> {
    load(&mut db, user.id, id, &state.config.apps).await.map(Json)
}
