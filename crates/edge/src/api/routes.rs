//! `/http/routes`.

use super::{answer, failed, invalid, unreadable};
use crate::traefik::{
    HttpRoute,
    routes::{HttpRoutes, RouteError},
};
use axum::{
    Json, Router,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, delete, get},
};
use serde_json::json;

/// Without Traefik each request is answered with what would be needed.
pub(super) fn router(routes: Option<HttpRoutes>) -> Router {
    let Some(routes) = routes else {
        let message =
            "this edge serves HTTP itself, as the control plane tells it: routes are for [ingress.traefik]";
        let refuse = any(async move || answer(StatusCode::CONFLICT, "no_traefik", message));
        return Router::new().route("/http/routes", refuse.clone()).route("/http/routes/{id}", refuse);
    };
    Router::new()
        .route("/http/routes", get(list).post(put))
        .route("/http/routes/{id}", delete(remove))
        .with_state(routes)
}

async fn list(State(routes): State<HttpRoutes>) -> Response {
    match routes.list().await {
        Ok(routes) => Json(json!({ "routes": routes })).into_response(),
        Err(error) => problem(&error),
    }
}

async fn put(State(routes): State<HttpRoutes>, body: Result<Json<HttpRoute>, JsonRejection>) -> Response {
    let Json(route) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    match routes.put(route).await {
        Ok((route, true)) => (StatusCode::CREATED, Json(route)).into_response(),
        Ok((route, false)) => (StatusCode::OK, Json(route)).into_response(),
        Err(error) => problem(&error),
    }
}

async fn remove(State(routes): State<HttpRoutes>, Path(id): Path<String>) -> Response {
    // What is no name is no route's either.
    let Ok(id) = id.parse() else { return problem(&RouteError::Missing) };
    match routes.remove(id).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => problem(&error),
    }
}

fn problem(error: &RouteError) -> Response {
    let reason = error.to_string();
    match error {
        RouteError::Foreign => answer(StatusCode::CONFLICT, "name_taken", &format!("route_id: {reason}")),
        RouteError::HostnameTaken { .. } => {
            answer(StatusCode::CONFLICT, "hostname_taken", &format!("hostname: {reason}"))
        }
        RouteError::Target(_) => invalid("target_url", &reason),
        RouteError::Missing => answer(StatusCode::NOT_FOUND, "not_found", &reason),
        RouteError::File(_) => failed(error),
    }
}
