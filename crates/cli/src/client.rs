//! The client of the REST API: requests, refusals, and streams of server-sent events.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    answers::{Problem, ProblemBody},
    connection::Connection,
    error::CliError,
};

/// A stream lasts as long as whoever reads it.
const STREAM_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A connection to one control plane.
pub(crate) struct Client {
    http: reqwest::Client,
    connection: Connection,
}

impl Client {
    pub(crate) fn connect(connection: Connection) -> Result<Self, CliError> {
        let server = connection.server.clone();
        let http =
            wisehosting_node::http::client().map_err(|source| CliError::Unreachable { server, source })?;
        Ok(Self { http, connection })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.answer(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.answer(self.request(Method::DELETE, path)).await
    }

    /// Opens a stream of server-sent events, after the one with the id `last`.
    pub(crate) async fn events(&self, path: &str, last: Option<&str>) -> Result<Events, CliError> {
        let mut request =
            self.request(Method::GET, path).header("accept", "text/event-stream").timeout(STREAM_TIMEOUT);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = self.send(request).await?;
        let bytes = response.bytes_stream().map(|chunk| chunk.ok().map(|bytes| bytes.to_vec()));
        Ok(Events { bytes: Box::pin(bytes), buffer: Vec::new() })
    }

    /// Reads the part of an answer that is shown.
    pub(crate) fn read<T: DeserializeOwned>(&self, answer: Value) -> Result<T, CliError> {
        serde_json::from_value(answer).map_err(|error| self.failed(format!("unexpected answer ({error})")))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.connection.server));
        match &self.connection.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value, CliError> {
        let response = self.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| self.failed(format!("no JSON in its answer ({error})")))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = match response.json::<ProblemBody>().await {
            Ok(body) => body.error,
            Err(_) => Problem { code: "unknown".to_owned(), message: format!("status {status}"), hint: None },
        };
        Err(match status {
            StatusCode::UNAUTHORIZED => CliError::NotSignedIn(problem),
            status if status.is_client_error() => CliError::Refused(problem),
            _ => self.failed(problem.message),
        })
    }

    fn unreachable(&self, source: reqwest::Error) -> CliError {
        CliError::Unreachable { server: self.connection.server.clone(), source: source.without_url() }
    }

    fn failed(&self, message: String) -> CliError {
        CliError::ServerFailed { server: self.connection.server.clone(), message }
    }
}

/// Makes what a user typed one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

/// A stream of server-sent events.
pub(crate) struct Events {
    bytes: Pin<Box<dyn Stream<Item = Option<Vec<u8>>> + Send>>,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; none when the stream has ended or broken.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Some(event);
            }
            self.buffer.extend(self.bytes.next().await??);
        }
    }
}

/// Takes the first complete event, one with data, out of what has arrived.
fn take_event(buffer: &mut Vec<u8>) -> Option<Event> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block: Vec<u8> = buffer.drain(..end + 2).collect();
        let block = String::from_utf8_lossy(&block);
        let values = |field: &str| -> Vec<String> {
            let lines = block.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            lines.map(|value| value.strip_prefix(' ').unwrap_or(value).to_owned()).collect()
        };
        let data = values("data");
        if !data.is_empty() {
            let name = values("event").pop().unwrap_or_else(|| "message".to_owned());
            return Some(Event { name, id: values("id").pop(), data: data.join("\n") });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_types_stays_one_segment() {
        assert_eq!(segment("hello-1"), "hello-1");
        assert_eq!(segment("a/b?c d"), "a%2Fb%3Fc%20d");
    }

    #[test]
    fn events_are_taken_whole_and_comments_skipped() {
        let mut buffer = b": keep-alive\n\nevent: log\nid: 3\ndata: {\"a\":\ndata: 1}\n\nevent: st".to_vec();
        let event = take_event(&mut buffer).unwrap();
        assert_eq!(
            event,
            Event { name: "log".to_owned(), id: Some("3".to_owned()), data: "{\"a\":\n1}".to_owned() }
        );
        assert_eq!(take_event(&mut buffer), None);
        buffer.extend(b"ate\ndata: x\n\n");
        assert_eq!(take_event(&mut buffer).unwrap().name, "state");
    }
}
