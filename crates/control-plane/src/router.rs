//! Every route of the control plane, on both of its listeners.
//!
//! A route of the REST API has its path and its description at its handler, and is part of the API and of the OpenAPI
//! document because it is listed here.

use axum::{
    Router, middleware as layer,
    routing::{any, get, post},
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use wisehosting_node::join::messages as join;

use crate::{
    apps, auth, deployments, error, events, health, hub, logs, mesh, middleware,
    nodes::{self, token_endpoints},
    openapi,
    routes::traefik,
    state::AppState,
    web, workers,
};

/// The REST API.
pub(crate) fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::Preamble::openapi())
        // /healthz, /v1/openapi.json
        .routes(routes!(health::get_health))
        .routes(routes!(openapi::get_openapi))
        // /v1/session, /v1/me
        .routes(routes!(auth::create_session::create_session, auth::delete_session::delete_session))
        .routes(routes!(auth::me::me))
        // /v1/apps, /v1/apps/{name}
        .routes(routes!(apps::list_apps::list_apps, apps::create_app::create_app))
        .routes(routes!(apps::get_app::get_app, apps::update_app::update_app, apps::delete_app::delete_app))
        .routes(routes!(apps::stats::get_app_stats))
        .routes(routes!(apps::restart_app::restart_app))
        .routes(routes!(apps::restart_app::start_app))
        .routes(routes!(apps::stop_app::stop_app))
        // /v1/apps/{name}/deployments, /v1/deployments, /v1/deployments/{id}
        .routes(routes!(
            deployments::list_deployments::list_app_deployments,
            deployments::create_deployment::create_deployment
        ))
        .routes(routes!(deployments::list_deployments::list_deployments))
        .routes(routes!(deployments::get_deployment::get_deployment))
        .routes(routes!(deployments::cancel_deployment::cancel_deployment))
        .routes(routes!(deployments::build_log::get_build_log))
        .routes(routes!(deployments::watch_deployment::watch_deployment))
        // /v1/apps/{name}/logs, /v1/logs
        .routes(routes!(logs::get_logs::get_runtime_log))
        .routes(routes!(logs::get_logs::get_runtime_logs))
        // /v1/workers, /v1/edges, /v1/mesh, /v1/events
        .routes(routes!(workers::list_workers::list_workers))
        .routes(routes!(workers::list_edges::list_edges))
        .routes(routes!(mesh::get_mesh::get_mesh))
        .routes(routes!(events::stream_changes::stream_changes))
}

/// What people, their programs and browsers reach: REST API and dashboard.
pub fn public(state: AppState) -> Router {
    let (api, _) = api().split_for_parts();
    // For machines, not for people and their programs.
    api.route(join::CHALLENGE_PATH, post(nodes::join::create_challenge))
        .route(join::JOIN_PATH, post(nodes::join::join))
        .route("/v1/{*path}", any(error::no_such_route))
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback_service(get(web::serve))
        .layer(layer::from_fn(middleware::take_in_body))
        .layer(layer::from_fn(middleware::secure))
        .layer(layer::from_fn(middleware::log))
        .with_state(state)
}

/// What agents and proxies reach, inside the mesh only.
pub fn internal(state: AppState) -> Router {
    Router::new()
        .route("/v1/workers/register", post(token_endpoints::register_worker))
        .route("/v1/workers/refresh-token", post(token_endpoints::refresh_worker))
        .route("/v1/edges/register", post(token_endpoints::register_edge))
        .route("/v1/edges/refresh-token", post(token_endpoints::refresh_edge))
        .layer(layer::from_fn(middleware::take_in_body))
        .route("/v1/workers/ws", get(hub::worker_channel))
        .route("/v1/edges/ws", get(hub::edge_channel))
        .route("/v1/traefik/proxy-config", get(traefik::proxy_config))
        .route("/v1/traefik/config", get(traefik::worker_config))
        .layer(layer::from_fn(middleware::log))
        .with_state(state)
}
