//! `GET /v1/logs` and `GET /v1/apps/{name}/logs`: what the instances of apps wrote.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;
use uuid::Uuid;
use wisehosting_domain::{
    id::{AppId, UserId},
    name::Label,
};
use wisehosting_store::{PgConnection, apps, runtime_log::Line};

use super::follow::{Follower, Query, newest};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::{PathOf, QueryOf},
    state::AppState,
};

/// Most lines in one answer.
const TAIL_MAX: usize = 5_000;
/// Lines in an answer, unless it is said how many or since when.
const TAIL: usize = 100;
/// Events that wait for a slow reader: each may be large.
const BUFFERED_EVENTS: usize = 1;
/// Before the database is asked again when it was away.
const AWAY_PAUSE: Duration = Duration::from_secs(2);

/// What the instances of apps wrote.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuntimeLog {
    /// In the order of their times.
    lines: Vec<RuntimeLogLine>,
}

/// One line.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuntimeLogLine {
    /// No other line has it; of one app, what is stored later has a greater one.
    number: u64,
    /// Name of the app.
    #[schema(example = "blog")]
    app: String,
    /// Who wrote it.
    instance_id: Uuid,
    /// When it was written, by the worker's clock.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(example = "2026-01-02T03:04:05.678901234Z")]
    at: OffsetDateTime,
    /// `stdout`, `stderr` or `system`.
    #[schema(example = "stdout")]
    stream: &'static str,
    /// Without its end.
    text: String,
}

/// Which lines of one app.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadAppLog {
    /// How many of the last lines.
    tail: Option<usize>,
    /// Only lines that were written then or later.
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    /// Whether to stay and send what is written from now on, as server-sent events.
    #[serde(default)]
    follow: bool,
}

impl ReadAppLog {
    fn query(&self) -> Query {
        let tail = self.tail.unwrap_or(if self.since.is_some() { TAIL_MAX } else { TAIL });
        Query { tail: tail.min(TAIL_MAX), since: self.since }
    }
}

/// Which lines of which apps.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadLogs {
    /// Names of apps with commas between them; all if absent.
    apps: Option<String>,
    /// As in [`ReadAppLog`].
    tail: Option<usize>,
    /// As in [`ReadAppLog`].
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    /// As in [`ReadAppLog`].
    #[serde(default)]
    follow: bool,
}

/// Read what an app's instances wrote, also those that are gone.
///
/// With `follow=true` the answer is a stream of server-sent events, each named `log` with a `RuntimeLog`; a client that
/// connects again with `Last-Event-ID` goes on after the last event that it got.
#[utoipa::path(
    get, path = "/v1/apps/{name}/logs", tag = "apps", operation_id = "get_runtime_log",
    params(
        ("name" = String, Path, description = "Name of the app."),
        ("tail" = Option<usize>, Query, description = "How many of the last lines: up to 5000; if absent 5000 with `since` and 100 without."),
        ("since" = Option<String>, Query, description = "Only lines that were written then or later: RFC 3339."),
        ("follow" = Option<bool>, Query, description = "Whether to go on with new lines, as server-sent events."),
    ),
    responses(
        (status = 200, description = "The last lines.", body = RuntimeLog),
        (status = 400, description = "A parameter cannot be read.", body = ErrorBody),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn get_runtime_log(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
    QueryOf(query): QueryOf<ReadAppLog>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let app = apps::get(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    let reading = Reading { state, owner: user.id, apps: vec![app.id], names: Names::from([(app.id, name)]) };
    reading.answer(&mut db, &query, &headers).await
}

/// Read what the instances of several of your apps wrote, together in the order of their times.
///
/// As `/v1/apps/{name}/logs` otherwise.
#[utoipa::path(
    get, path = "/v1/logs", tag = "apps", operation_id = "get_runtime_logs",
    params(
        ("apps" = Option<String>, Query, description = "Names of apps with commas between them; all of yours if absent."),
        ("tail" = Option<usize>, Query, description = "How many of the last lines: up to 5000; if absent 5000 with `since` and 100 without."),
        ("since" = Option<String>, Query, description = "Only lines that were written then or later: RFC 3339."),
        ("follow" = Option<bool>, Query, description = "Whether to go on with new lines, as server-sent events."),
    ),
    responses(
        (status = 200, description = "The last lines.", body = RuntimeLog),
        (status = 400, description = "A parameter cannot be read.", body = ErrorBody),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn get_runtime_logs(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    QueryOf(query): QueryOf<ReadLogs>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let all = apps::list(&mut db, user.id).await?;
    let mut names: Names = all.into_iter().map(|app| (app.id, app.name)).collect();
    if let Some(wanted) = &query.apps {
        let wanted: Vec<&str> = wanted.split(',').collect();
        if wanted.iter().any(|wanted| !names.values().any(|name| name.as_str() == *wanted)) {
            return Err(Problem::not_found("app"));
        }
        names.retain(|_, name| wanted.contains(&name.as_str()));
    }
    let mut apps: Vec<AppId> = names.keys().copied().collect();
    apps.sort_unstable_by_key(|app| app.0);
    let ReadLogs { tail, since, follow, .. } = query;
    let reading = Reading { state, owner: user.id, apps, names };
    reading.answer(&mut db, &ReadAppLog { tail, since, follow }, &headers).await
}

type Names = HashMap<AppId, Label>;

/// What is read, and for whom.
struct Reading {
    state: AppState,
    owner: UserId,
    /// In an order that is the same for each request of the same apps.
    apps: Vec<AppId>,
    names: Names,
}

impl Reading {
    async fn answer(
        self,
        db: &mut PgConnection,
        query: &ReadAppLog,
        headers: &HeaderMap,
    ) -> Result<Response, Problem> {
        let Self { state, owner, apps, names } = self;
        if !query.follow {
            let lines = newest(&state, db, owner, &apps, query.query()).await?;
            return Ok(Json(log(lines, &names)).into_response());
        }
        let place = headers.get("last-event-id").and_then(|place| place.to_str().ok());
        let (follower, lines) = match place.and_then(|place| Follower::parse_place(&apps, place)) {
            Some(place) => (Follower::after(state.clone(), owner, place), None),
            None => {
                let (follower, lines) =
                    Follower::from_newest(state.clone(), db, owner, &apps, query.query()).await?;
                (follower, Some(lines))
            }
        };
        let (events, receiver) = mpsc::channel(BUFFERED_EVENTS);
        tokio::spawn(send(state, follower, lines, names, events));
        Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()).into_response())
    }
}

/// Sends lines until nobody listens.
async fn send(
    state: AppState,
    mut follower: Follower,
    mut first: Option<Vec<Line>>,
    names: Names,
    events: mpsc::Sender<Result<Event, Infallible>>,
) {
    loop {
        let lines = match first.take() {
            Some(lines) => Ok(lines),
            None => tokio::select! {
                lines = follower.next() => lines,
                () = events.closed() => return,
                () = state.shutdown.cancelled() => return,
            },
        };
        let Ok(lines) = lines else {
            sleep(AWAY_PAUSE).await;
            continue;
        };
        let event = Event::default().event("log").id(follower.place()).json_data(log(lines, &names));
        let Ok(event) = event else { return };
        if events.send(Ok(event)).await.is_err() {
            return;
        }
    }
}

fn log(lines: Vec<Line>, names: &Names) -> RuntimeLog {
    let line = |line: Line| RuntimeLogLine {
        number: line.number,
        app: names.get(&line.app_id).map(ToString::to_string).unwrap_or_default(),
        instance_id: line.instance_id.0,
        at: line.at,
        stream: line.stream.as_str(),
        text: line.text,
    };
    RuntimeLog { lines: lines.into_iter().map(line).collect() }
}
