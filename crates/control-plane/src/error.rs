//! What an API request gets when it cannot be served.
//!
//! A problem has a sentence for the user and, if something can be done, a hint. What went wrong inside is logged here,
//! once, and never sent.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use wisehosting_store::StoreError;

/// How long a client should wait while the database is away.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

/// Why a request was refused or could not be served.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    error: ErrorDetail,
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For programs; does not change.
    #[schema(example = "name_taken")]
    pub code: &'static str,
    /// One sentence for people.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The field of the request that is wrong, such as `limits.memory_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Problem {
    /// A problem with a code for programs and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: ErrorDetail { code, message: message.into(), hint: None, field: None } }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }

    /// Adds the field of the request that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.error.field = Some(field.into());
        self
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the answer says.
    #[must_use]
    pub fn detail(&self) -> &ErrorDetail {
        &self.error
    }

    /// 401: nobody is signed in.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "You are not signed in.").hint(
            "Open a sign-in link (`wisehosting-control-plane login-link`) or send `Authorization: Bearer <API token>`.",
        )
    }

    /// 404: it does not exist, or it is somebody else's, which must look the same.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("There is no such {what}."))
    }

    /// For `map_err`: what the store does not find is a 404.
    pub fn missing(what: &str) -> impl Fn(StoreError) -> Self {
        move |error| match error {
            StoreError::NotFound { .. } => Self::not_found(what),
            error => error.into(),
        }
    }

    /// 503: Postgres is away, or its schema is being brought up to date.
    #[must_use]
    pub fn database_unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_unavailable",
            "The control plane cannot reach its database at the moment.",
        )
        .hint("Running apps are not affected. Try again in a few seconds.")
    }

    /// 422: one field is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message).field(field)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            return Self::database_unavailable();
        }
        tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The control plane failed on this request.")
            .hint("The reason is in the control plane's log.")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.error })).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S);
        }
        response
    }
}

/// The answer to a path of the API that does not exist.
pub async fn no_such_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", "The API has no such route.")
        .hint("GET /v1/openapi.json lists them all.")
}

/// The answer to a method that a route does not have.
pub async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This route has no such method.")
        .hint("GET /v1/openapi.json lists them all.")
}
