//! `GET /v1/deployments/{id}/log`: the log of a deployment's build.

use axum::Json;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use wisehosting_domain::id::DeploymentId;
use wisehosting_store::{build_log, deployments};

use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::{PathOf, QueryOf},
};

/// Most lines in one answer.
pub(super) const LINES_MAX: u32 = 2_000;

/// A part of a build log.
#[derive(Debug, Serialize, ToSchema)]
pub struct BuildLog {
    /// In order; 2000 at most.
    pub(super) lines: Vec<BuildLogLine>,
}

/// One line of a build log.
#[derive(Debug, Serialize, ToSchema)]
pub struct BuildLogLine {
    /// Its number, from 0.
    pub number: u64,
    /// When it was written, by the worker's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `stdout`, `stderr` or `system`.
    #[schema(example = "stdout")]
    pub stream: String,
    /// Without its end.
    pub text: String,
}

impl From<build_log::Line> for BuildLogLine {
    fn from(line: build_log::Line) -> Self {
        Self { number: line.number, at: line.at, stream: line.stream, text: line.text }
    }
}

/// Which lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadBuildLog {
    /// Only lines with a greater number; all if absent.
    after: Option<u64>,
}

impl ReadBuildLog {
    /// Number of the first line.
    pub(super) fn first(&self) -> u64 {
        self.after.map_or(0, |after| after.saturating_add(1))
    }
}

/// Read the build log of a deployment.
#[utoipa::path(
    get, path = "/v1/deployments/{id}/log", tag = "deployments", operation_id = "get_build_log",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment."),
        ("after" = Option<u64>, Query, description = "Only lines with a greater number; all if absent."),
    ),
    responses(
        (status = 200, description = "The lines so far.", body = BuildLog),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such deployment.", body = ErrorBody),
    ),
)]
pub async fn get_build_log(
    SignedIn { user, mut db }: SignedIn,
    PathOf(id): PathOf<DeploymentId>,
    QueryOf(query): QueryOf<ReadBuildLog>,
) -> Result<Json<BuildLog>, Problem> {
    deployments::get(&mut db, user.id, id).await.map_err(Problem::missing("deployment"))?;
    let lines = build_log::read(&mut db, user.id, id, query.first(), LINES_MAX).await?;
    Ok(Json(BuildLog { lines: lines.into_iter().map(BuildLogLine::from).collect() }))
}
