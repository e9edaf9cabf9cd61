//! `POST /v1/deployments/{id}/cancel`: call a deployment off.

use axum::{Json, extract::State, http::StatusCode};
use wisehosting_domain::{id::DeploymentId, state::DeploymentState};
use wisehosting_store::{
    changes, deployment_state, deployments,
    jobs::{self, Cancel},
    pool,
};

use super::{Deployment, load};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::PathOf,
    state::AppState,
};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("This deployment is {0} and can no longer be cancelled.")]
    TooLate(DeploymentState),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::new(StatusCode::CONFLICT, "too_late", error.to_string())
    }
}

/// Cancel a deployment that is not yet in service. A running one ends as soon as its worker has cleaned up.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/cancel", tag = "deployments", operation_id = "cancel_deployment",
    params(("id" = uuid::Uuid, Path, description = "The deployment.")),
    responses(
        (status = 200, description = "It is cancelled, or will be.", body = Deployment),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such deployment.", body = ErrorBody),
        (status = 409, description = "It is too late.", body = ErrorBody),
    ),
)]
pub async fn cancel_deployment(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(id): PathOf<DeploymentId>,
) -> Result<Json<Deployment>, Problem> {
    let deployment = deployments::get(&mut db, user.id, id).await.map_err(Problem::missing("deployment"))?;
    let now = state.clock.now();
    match jobs::request_cancel(&mut db, id, now).await? {
        Cancel::Done => {
            deployment_state::advance(&mut db, id, DeploymentState::Cancelled, now).await?;
        }
        // The scheduler tells the worker, once it sees the request.
        Cancel::Requested => pool::notify(&mut db, changes::JOBS).await?,
        Cancel::TooLate => return Err(Error::TooLate(deployment.state).into()),
    }
    let deployment = load(&mut db, user.id, id, &state.config.apps).await?;
    pool::commit(db).await?;
    Ok(Json(deployment))
}
