//! Requests to the router, as a browser or program would send them.

use std::time::Duration;

use axum::{Router, body::Body};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceExt as _;

/// Longest wait for something that is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody who sends requests, with these headers each time.
#[derive(Clone)]
pub(crate) struct Client {
    router: Router,
    headers: Vec<(String, String)>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Value,
}

impl Client {
    pub(crate) fn new(router: Router) -> Self {
        Self { router, headers: Vec::new() }
    }

    #[must_use]
    pub(crate) fn with_router(&self, router: Router) -> Self {
        Self { router, headers: self.headers.clone() }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let text = body.map(|body| body.to_string());
        let response = self.response(method, path, text).await;
        let (parts, body) = response.into_parts();
        let bytes = timeout(PATIENCE, body.collect()).await.expect("an end").unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Server-sent events, which may have no end.
    pub(crate) async fn events(&self, path: &str) -> Events {
        let response = self.response("GET", path, None).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), read: String::new() }
    }

    async fn response(&self, method: &str, path: &str, body: Option<String>) -> axum::response::Response {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(body.map_or_else(Body::empty, Body::from)).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }
}

impl Answer {
    /// The body, if the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Code, field and message of the error, if the status is this one.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16) -> (String, String, String) {
        let body = self.expect(status);
        let text = |key: &str| body["error"][key].as_str().unwrap_or_default().to_owned();
        (text("code"), text("field"), text("message"))
    }
}

/// A stream of server-sent events.
pub(crate) struct Events {
    body: Body,
    read: String,
}

/// One event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Events {
    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        timeout(PATIENCE, self.read_event()).await.expect("an event")
    }

    async fn read_event(&mut self) -> Option<Event> {
        loop {
            if let Some((text, rest)) = self.read.split_once("\n\n") {
                let event = parse(text);
                self.read = rest.to_owned();
                if event.name.is_empty() {
                    continue;
                }
                return Some(event);
            }
            let frame = self.body.frame().await?.unwrap();
            self.read += std::str::from_utf8(frame.data_ref()?).unwrap();
        }
    }
}

fn parse(text: &str) -> Event {
    let field = |name: &str| {
        let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        values.collect::<Vec<_>>().join("\n")
    };
    let data = serde_json::from_str(&field("data")).unwrap_or_default();
    Event { name: field("event"), id: field("id"), data }
}
