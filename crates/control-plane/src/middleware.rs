//! What happens to every request: its size is bounded, it is logged, and its answer tells browsers to be careful.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use crate::error::Problem;

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The dashboard's pages load nothing from elsewhere, run no inline script, and are shown in no frame.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Takes in the whole body before anything is done for the request, so that a slow sender holds nothing of ours.
pub(crate) async fn take_in_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body.to_bytes()))).await,
        Ok(Err(_)) => {
            let message = format!("The request is larger than {} KiB.", BODY_BYTES_MAX / 1024);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).into_response()
        }
        Err(_) => {
            let message = "The request took too long to arrive.";
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message).into_response()
        }
    }
}

/// Adds the headers that tell browsers what not to do.
pub(crate) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Logs the request without its query, which may say more than the log should know. What only reads is logged
/// at the level of details: a dashboard reads all the time.
pub(crate) async fn log(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let begun = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if method.is_safe() && !response.status().is_server_error() {
        tracing::debug!(%method, path, status, duration_ms, "request");
    } else {
        tracing::info!(%method, path, status, duration_ms, "request");
    }
    response
}
