//! What handlers take from a request, refused with a [`Problem`] that names the field.

use std::str::FromStr;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::error::Problem;

/// A JSON body. No body at all is the same as `{}`.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_json = content_type
            .is_some_and(|value| value.split(';').next().is_some_and(|t| t.trim() == "application/json"));
        let bytes = Bytes::from_request(request, state).await.map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "unreadable", "The body of the request cannot be read.")
        })?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        // A form of another site can send any other type, but not this one.
        if !is_json {
            let message = "The body must be JSON, and the header must say `Content-Type: application/json`.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
        }
        parse(&bytes).map(Self)
    }
}

/// Reads JSON; an error names the field, in one sentence without positions.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if !inner.is_data() {
            return Problem::new(
                StatusCode::BAD_REQUEST,
                "malformed_json",
                format!("The body is not JSON: {inner}."),
            );
        }
        let text = inner.to_string();
        let message =
            without_value(text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message));
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        let field = match (path.as_str(), missing) {
            (".", Some(missing)) => missing.to_owned(),
            (path, Some(missing)) => format!("{path}.{missing}"),
            (path, None) => path.to_owned(),
        };
        let message = if field == "." { message.to_owned() } else { format!("{field}: {message}") };
        Problem::invalid(field, message)
    })?;
    deserializer.end().map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed_json", format!("The body is not JSON: {error}."))
    })?;
    Ok(value)
}

/// What was expected, without what came instead: that may be a secret in the wrong place.
fn without_value(message: &str) -> &str {
    let has_value = ["invalid type: ", "invalid value: "].iter().any(|start| message.starts_with(start));
    let expected = message.rfind(", expected ").filter(|_| has_value);
    expected.map_or(message, |at| &message[at + 2..])
}

/// The only parameter in the path. What cannot be one names nothing: 404.
#[derive(Debug)]
pub struct PathOf<T>(pub T);

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::not_found("resource"))?;
        text.parse().map(Self).map_err(|_| Problem::not_found("resource"))
    }
}

/// The parameters after the question mark.
#[derive(Debug)]
pub struct QueryOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error| {
            let text = error.body_text();
            let message = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Problem::new(StatusCode::BAD_REQUEST, "invalid_query", message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by the deserializer")]
    struct Example {
        name: wisehosting_domain::name::Label,
        inner: Option<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by the deserializer")]
    struct Inner {
        size: u64,
    }

    #[test]
    fn an_error_is_one_sentence_that_names_the_field() {
        for (body, field, words) in [
            (r#"{"name":"Hello"}"#, "name", "is not a DNS label"),
            (r#"{}"#, "name", "missing field"),
            (r#"{"name":"a","inner":{"size":"x"}}"#, "inner.size", "expected u64"),
            (r#"{"name":"a","inner":{}}"#, "inner.size", "missing field"),
            (r#"{"name":"a","colour":1}"#, "colour", "unknown field"),
            (
                r#"{"name":"a","inner":"hunter2, expected by nobody"}"#,
                "inner",
                "inner: expected struct Inner",
            ),
        ] {
            let problem = format!("{:?}", parse::<Example>(body.as_bytes()).expect_err(body));
            assert!(problem.contains(&format!("field: Some({field:?})")), "{problem}");
            assert!(problem.contains(words) && !problem.contains("at line"), "{problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for body in ["", "{", r#"{"name":"a"} x"#] {
            assert!(
                format!("{:?}", parse::<Example>(body.as_bytes()).expect_err(body))
                    .contains("malformed_json")
            );
        }
    }
}
