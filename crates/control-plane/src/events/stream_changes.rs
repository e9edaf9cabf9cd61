//! `GET /v1/events`: what changed, as it changes, so that a dashboard asks again only then.

use std::convert::Infallible;

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Change, ChangeKind};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    state::AppState,
};

/// The data of a `change` event: what to ask for again.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeEvent {
    /// What changed.
    kind: ChangeKind,
    /// Name of the app that it is about.
    app: Option<String>,
    /// The app or deployment itself.
    id: Option<Uuid>,
}

impl From<Change> for ChangeEvent {
    fn from(change: Change) -> Self {
        Self { kind: change.kind, app: change.app, id: change.id }
    }
}

/// Watch what is yours: server-sent events, each named `change` with a `ChangeEvent` that says what to ask for again.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "stream_changes",
    responses(
        (status = 200, description = "Events `change`.", content_type = "text/event-stream", body = ChangeEvent),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn stream_changes(
    State(state): State<AppState>,
    SignedIn { user, db }: SignedIn,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    drop(db);
    let subscription = state.changes.subscribe();
    let own = stream::unfold(subscription, |mut subscription| async move {
        let change = subscription.next().await;
        Some((change, subscription))
    })
    .filter(move |change| std::future::ready(change.concerns(user.id)));
    let events = own.map(|change| Ok(to_event(change))).take_until(state.shutdown.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn to_event(change: Change) -> Event {
    let event = Event::default().event("change");
    event.json_data(ChangeEvent::from(change)).unwrap_or_else(|_| Event::default().comment("unreadable"))
}
