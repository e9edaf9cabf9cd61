//! What a visitor sees when no app can answer.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use std::fmt;

/// Why no app answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// The request does not say which host it is for, or its method is not for an app.
    BadRequest,
    /// The rest of the request does not come.
    TooSlow,
    /// The body of the request is larger than this edge takes.
    TooLarge,
    /// No app has this host name.
    UnknownHost,
    /// This edge has not yet learned any route.
    NoRoutes,
    /// The app has no instance that this edge can reach.
    NoInstance,
    /// The instance broke off or answered with something else than HTTP.
    BadAnswer,
    /// The instance did not answer in time.
    NoAnswer,
}

impl Page {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::NoRoutes | Self::NoInstance => StatusCode::SERVICE_UNAVAILABLE,
            Self::BadAnswer => StatusCode::BAD_GATEWAY,
            Self::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::BadRequest => "This request cannot be understood.",
            Self::TooSlow => "The rest of this request did not come in time.",
            Self::TooLarge => "This request is larger than this server takes.",
            Self::UnknownHost => "There is no app at this address.",
            Self::NoRoutes => "This server is starting. Please try again in a moment.",
            Self::NoInstance => "The app at this address is not running. Please try again later.",
            Self::BadAnswer => "The app at this address did not answer properly.",
            Self::NoAnswer => "The app at this address did not answer in time.",
        }
    }

    /// The page as a response.
    pub(super) fn response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        write!(
            f,
            concat!(
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">",
                "<meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>",
                "<body style=\"font:16px/1.5 system-ui;max-width:34em;margin:15vh auto;padding:0 1em\">",
                "<h1 style=\"font-size:1.3em\">{code} {title}</h1><p>{text}</p></body></html>\n",
            ),
            code = status.as_u16(),
            title = title,
            text = self.text(),
        )
    }
}
