//! `GET /v1/me`: who is signed in.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;
use wisehosting_store::users::User;

use super::SignedIn;
use crate::error::ErrorBody;

/// The signed-in user.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// Which user.
    id: Uuid,
    /// Their address.
    #[schema(example = "you@example.org")]
    email: String,
}

impl From<User> for Me {
    fn from(user: User) -> Self {
        Self { id: user.id.0, email: user.email }
    }
}

/// Who is signed in.
#[utoipa::path(
    get, path = "/v1/me", tag = "session", operation_id = "get_me",
    responses(
        (status = 200, description = "The signed-in user.", body = Me),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn me(SignedIn { user, .. }: SignedIn) -> Json<Me> {
    Json(user.into())
}
