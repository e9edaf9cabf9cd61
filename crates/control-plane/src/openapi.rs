//! The description of the REST API, collected from the handlers that [`router`] lists.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    auth::{COOKIE, COOKIE_PLAIN},
    router,
};

/// What stands above the single routes.
#[derive(OpenApi)]
#[openapi(
    info(title = "WiseHosting", description = "Deploy repositories on your own machines."),
    security(("session" = []), ("api_token" = [])),
    modifiers(&Security),
)]
pub(crate) struct Preamble;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let session = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
            COOKIE,
            &format!("Named `{COOKIE_PLAIN}` where the control plane is reached without TLS."),
        )));
        let api_token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        components.add_security_scheme("session", session);
        components.add_security_scheme("api_token", api_token);
    }
}

/// The whole document.
#[must_use]
pub fn document() -> openapi::OpenApi {
    router::api().into_openapi()
}

/// The document as it is committed in `web/openapi.json`.
///
/// # Errors
/// It cannot be written as JSON, which no document of ours is.
pub fn to_json() -> serde_json::Result<String> {
    document().to_pretty_json().map(|text| text + "\n")
}

/// The description of this API.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "platform", operation_id = "get_openapi", security(()),
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = Object)),
)]
pub async fn get_openapi() -> Json<openapi::OpenApi> {
    Json(document())
}
