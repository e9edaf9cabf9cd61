//! `GET /v1/deployments` and `GET /v1/apps/{name}/deployments`: the user's deployments, newest first.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wisehosting_domain::name::Label;
use wisehosting_store::{apps, deployments};

use super::DeploymentSummary;
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::{PathOf, QueryOf},
};

const LIMIT_MAX: u16 = 500;

/// Deployments, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentList {
    deployments: Vec<DeploymentSummary>,
}

/// How many.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListDeployments {
    /// How many at most: up to 500.
    #[serde(default = "default_limit")]
    limit: u16,
}

fn default_limit() -> u16 {
    50
}

impl ListDeployments {
    fn limit(&self) -> i64 {
        self.limit.min(LIMIT_MAX).into()
    }
}

impl From<Vec<deployments::Deployment>> for DeploymentList {
    fn from(deployments: Vec<deployments::Deployment>) -> Self {
        Self { deployments: deployments.iter().map(DeploymentSummary::from).collect() }
    }
}

/// List the deployments of all your apps, newest first.
#[utoipa::path(
    get, path = "/v1/deployments", tag = "deployments", operation_id = "list_deployments",
    params(("limit" = Option<u16>, Query, description = "How many at most: up to 500, 50 if absent.")),
    responses(
        (status = 200, description = "The newest ones.", body = DeploymentList),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn list_deployments(
    SignedIn { user, mut db }: SignedIn,
    QueryOf(query): QueryOf<ListDeployments>,
) -> Result<Json<DeploymentList>, Problem> {
    let found = deployments::list(&mut db, user.id, None, query.limit()).await?;
    Ok(Json(found.into()))
}

/// List the deployments of an app, newest first.
#[utoipa::path(
    get, path = "/v1/apps/{name}/deployments", tag = "deployments", operation_id = "list_app_deployments",
    params(
        ("name" = String, Path, description = "Name of the app."),
        ("limit" = Option<u16>, Query, description = "How many at most: up to 500, 50 if absent."),
    ),
    responses(
        (status = 200, description = "The newest ones.", body = DeploymentList),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn list_app_deployments(
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
    QueryOf(query): QueryOf<ListDeployments>,
) -> Result<Json<DeploymentList>, Problem> {
    let app = apps::get(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    let found = deployments::list(&mut db, user.id, Some(app.id), query.limit()).await?;
    Ok(Json(found.into()))
}
