//! `GET /v1/apps/{name}/logs`: what an app's instances wrote lately.

use std::convert::Infallible;

use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::BroadcastStream;
use utoipa::ToSchema;
use uuid::Uuid;
use wisehosting_domain::name::Label;
use wisehosting_protocol::payload;
use wisehosting_store::apps;

use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::{PathOf, QueryOf},
    logs::{self, LINES_MAX},
    state::AppState,
};

/// What an app's instances wrote.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuntimeLog {
    /// In the order in which they arrived.
    lines: Vec<RuntimeLogLine>,
}

/// One line.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuntimeLogLine {
    /// Grows from line to line.
    number: u64,
    /// Who wrote it.
    instance_id: Uuid,
    /// When it was written, by the worker's clock: RFC 3339.
    #[schema(example = "2026-01-02T03:04:05.678901234Z")]
    at: String,
    /// `stdout`, `stderr` or `system`.
    #[schema(example = "stdout")]
    stream: &'static str,
    /// Without its end.
    text: String,
}

impl From<logs::Line> for RuntimeLogLine {
    fn from(line: logs::Line) -> Self {
        let stream = match line.stream {
            payload::Stream::Stdout => "stdout",
            payload::Stream::Stderr => "stderr",
            payload::Stream::System => "system",
        };
        Self { number: line.number, instance_id: line.instance_id.0, at: line.at, stream, text: line.text }
    }
}

/// Which lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadRuntimeLog {
    /// How many of the last lines: up to 1000.
    #[serde(default = "default_tail")]
    tail: usize,
    /// Whether to stay and send what is written from now on, as server-sent events.
    #[serde(default)]
    follow: bool,
}

fn default_tail() -> usize {
    100
}

/// Read what an app's instances wrote lately: an hour and 1000 lines at most are kept, in memory.
///
/// With `follow=true` the answer is a stream of server-sent events, each named `log` with a `RuntimeLog`.
#[utoipa::path(
    get, path = "/v1/apps/{name}/logs", tag = "apps", operation_id = "get_runtime_log",
    params(
        ("name" = String, Path, description = "Name of the app."),
        ("tail" = Option<usize>, Query, description = "How many of the last lines: up to 1000, 100 if absent."),
        ("follow" = Option<bool>, Query, description = "Whether to go on with new lines, as server-sent events."),
    ),
    responses(
        (status = 200, description = "The last lines.", body = RuntimeLog),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn get_runtime_log(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
    QueryOf(query): QueryOf<ReadRuntimeLog>,
) -> Result<Response, Problem> {
    let app = apps::get(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    drop(db);
    let tail = query.tail.min(LINES_MAX);
    let now = state.clock.now();
    if !query.follow {
        let lines = state.logs.tail(app.id, 0, tail, now);
        return Ok(Json(to_log(lines)).into_response());
    }
    let (lines, following) = state.logs.follow(app.id, 0, tail, now);
    // A follower that is too slow misses lines; their numbers show it.
    let new = BroadcastStream::new(following).filter_map(|line| std::future::ready(line.ok()));
    let batches = stream::once(std::future::ready(lines)).chain(new.map(|line| vec![line]));
    let events = to_events(batches).take_until(state.shutdown.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn to_log(lines: Vec<logs::Line>) -> RuntimeLog {
    RuntimeLog { lines: lines.into_iter().map(RuntimeLogLine::from).collect() }
}

fn to_events(batches: impl Stream<Item = Vec<logs::Line>>) -> impl Stream<Item = Result<Event, Infallible>> {
    batches.map(|lines| {
        let event = Event::default().event("log").json_data(to_log(lines));
        Ok(event.unwrap_or_else(|_| Event::default().comment("unreadable")))
    })
}
