//! `GET /healthz`: whether the control plane can do its work.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::{ErrorBody, Problem},
    state::AppState,
};

/// The control plane can do its work.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Version of the control plane.
    version: &'static str,
}

/// Whether the control plane can do its work.
#[utoipa::path(
    get, path = "/healthz", tag = "platform", operation_id = "get_health", security(()),
    responses(
        (status = 200, description = "It can.", body = Health),
        (status = 503, description = "The database cannot be reached.", body = ErrorBody),
    ),
)]
pub async fn get_health(State(state): State<AppState>) -> Result<Json<Health>, Problem> {
    state.begin().await?;
    Ok(Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") }))
}
