//! The dashboard: the files of `web/dist` as they were when the program was built.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use rust_embed::{EmbeddedFile, RustEmbed};

const INDEX: &str = "index.html";
/// File names under this folder change with their content.
const HASHED: &str = "assets/";

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Dist;

/// Shown instead of a dashboard that was not there when the program was built.
const ABSENT: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>WiseHosting</title>\
<h1>The dashboard is not part of this build</h1>\
<p>The API works. To have the dashboard too, run <code>npm ci &amp;&amp; npm run build</code> in the folder \
<code>web</code> and build the control plane again.</p>";

/// Serves a file of the dashboard.
pub(crate) async fn serve(uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    let path = if path.is_empty() { INDEX } else { path };
    match Dist::get(path) {
        Some(file) => respond(path, file),
        None if path == INDEX => Html(ABSENT).into_response(),
        None => (StatusCode::NOT_FOUND, "There is no such page.\n").into_response(),
    }
}

fn respond(path: &str, file: EmbeddedFile) -> Response {
    let caching = if path.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let content_type = HeaderValue::from_str(file.metadata.mimetype());
    let headers = [
        (header::CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"))),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
    ];
    (headers, Body::from(file.data)).into_response()
}
