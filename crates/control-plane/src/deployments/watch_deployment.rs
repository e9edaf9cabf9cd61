//! `GET /v1/deployments/{id}/events`: a deployment as it goes, until it is in service or has ended.
//!
//! Postgres is asked again whenever it announces a change of the deployment. What is sent follows from what is stored
//! alone, so a watcher that connects late or again misses nothing.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::Stream;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use wisehosting_domain::id::{DeploymentId, UserId};
use wisehosting_store::{build_log, deployments};

use super::{
    State as DeploymentState,
    build_log::{BuildLog, BuildLogLine, LINES_MAX, ReadBuildLog},
    load,
};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    events::Subscription,
    extract::{PathOf, QueryOf},
    state::AppState,
};

/// A net below the announcements: how long a change may go unseen should one be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Events that wait for a slow reader.
const BUFFERED_EVENTS: usize = 16;

/// Watch a deployment: server-sent events until it is live or has ended.
///
/// `state` events carry the whole `Deployment`, `log` events carry new lines as a `BuildLog`; the id of a `log` event is
/// the number of its last line, from which a client that connects again goes on.
#[utoipa::path(
    get, path = "/v1/deployments/{id}/events", tag = "deployments", operation_id = "watch_deployment",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment."),
        ("after" = Option<u64>, Query, description = "Only log lines with a greater number; all if absent."),
    ),
    responses(
        (status = 200, description = "Events `state` and `log`.", content_type = "text/event-stream", body = String),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such deployment.", body = ErrorBody),
    ),
)]
pub async fn watch_deployment(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(id): PathOf<DeploymentId>,
    QueryOf(query): QueryOf<ReadBuildLog>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    deployments::get(&mut db, user.id, id).await.map_err(Problem::missing("deployment"))?;
    drop(db);
    let last_seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let next_line = last_seen.map_or_else(|| query.first(), |last| last.saturating_add(1));
    let (events, receiver) = mpsc::channel(BUFFERED_EVENTS);
    let changes = state.changes.subscribe();
    let watch = Watch { state, owner: user.id, id, next_line, last_state: String::new(), events };
    tokio::spawn(watch.run(changes));
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()))
}

/// One watcher.
struct Watch {
    state: AppState,
    owner: UserId,
    id: DeploymentId,
    /// First line that was not yet sent.
    next_line: u64,
    /// The last `state` event.
    last_state: String,
    events: mpsc::Sender<Result<Event, Infallible>>,
}

/// The watcher has all that there will be, or is gone.
struct Ended;

impl Watch {
    async fn run(mut self, mut changes: Subscription) {
        while self.send_news().await.is_ok() {
            tokio::select! {
                () = changes.of_deployment(self.id) => {}
                () = sleep(LOOK_AGAIN) => {}
                () = self.events.closed() => return,
                () = self.state.shutdown.cancelled() => return,
            }
        }
    }

    /// Sends what is new. Should the database be away, the watcher waits.
    async fn send_news(&mut self) -> Result<(), Ended> {
        loop {
            let Ok(mut db) = self.state.begin().await else { return Ok(()) };
            // The state first: all lines that belong to it are stored before it.
            let loaded = load(&mut db, self.owner, self.id, &self.state.config.apps).await;
            let lines = build_log::read(&mut db, self.owner, self.id, self.next_line, LINES_MAX).await;
            drop(db);
            let (Ok(deployment), Ok(lines)) = (loaded, lines) else { return Ok(()) };
            let more = u32::try_from(lines.len()) == Ok(LINES_MAX);
            self.send_lines(lines).await?;
            if more {
                continue;
            }
            let text = serde_json::to_string(&deployment).map_err(|_| Ended)?;
            if text != self.last_state {
                self.send(Event::default().event("state").data(&text)).await?;
                self.last_state = text;
            }
            return if deployment.summary.state.is_settled() { Err(Ended) } else { Ok(()) };
        }
    }

    async fn send_lines(&mut self, lines: Vec<build_log::Line>) -> Result<(), Ended> {
        let Some(last) = lines.last().map(|line| line.number) else { return Ok(()) };
        let log = BuildLog { lines: lines.into_iter().map(BuildLogLine::from).collect() };
        let text = serde_json::to_string(&log).map_err(|_| Ended)?;
        self.send(Event::default().event("log").id(last.to_string()).data(text)).await?;
        self.next_line = last + 1;
        Ok(())
    }

    async fn send(&self, event: Event) -> Result<(), Ended> {
        self.events.send(Ok(event)).await.map_err(|_| Ended)
    }
}

impl DeploymentState {
    /// Whether there is nothing more to watch.
    fn is_settled(self) -> bool {
        matches!(self, Self::Live | Self::Superseded | Self::Failed | Self::Cancelled)
    }
}
