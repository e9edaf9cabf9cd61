//! What workers send is stored, and then shown.
//!
//! Invariant: lines are stored only if they follow on what is stored of their instance, together with where they end.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wisehosting_domain::{id::InstanceId, name::Label};
use wisehosting_protocol::payload::{self, LogLine, RuntimeLog};
use wisehosting_store::{
    StoreError, instances, pool,
    runtime_log::{self, NewLine, Stream},
};

use crate::state::AppState;

/// Stores what a worker sends of an instance, unless it is stored already, or does not follow on what is; returns where the
/// worker is to go on. Lines of an app that is gone are dropped.
pub(crate) async fn take(
    state: &AppState,
    worker: &Label,
    log: &RuntimeLog,
) -> Result<Option<String>, StoreError> {
    let lines = log.lines.iter().map(|line| new_line(line, state.clock.now())).collect();
    let step = log.cursor.as_deref().map(|cursor| (log.after.as_deref(), cursor));
    match store(state, worker, log.instance_id, Step::Worker(step), lines).await? {
        Some(cursor) => Ok(cursor),
        None => Ok(log.cursor.clone()),
    }
}

/// Writes into the log of an instance in the platform's name.
pub(crate) async fn say(
    state: &AppState,
    worker: &Label,
    instance: InstanceId,
    at: OffsetDateTime,
    text: String,
) -> Result<(), StoreError> {
    let line = NewLine { at, stream: Stream::System, text };
    store(state, worker, instance, Step::Platform, vec![line]).await.map(drop)
}

enum Step<'a> {
    /// From a cursor to another; none if it is just asked for.
    Worker(Option<(Option<&'a str>, &'a str)>),
    Platform,
}

/// Returns the cursor that is stored then; none if the worker has no such instance.
async fn store(
    state: &AppState,
    worker: &Label,
    instance: InstanceId,
    step: Step<'_>,
    lines: Vec<NewLine>,
) -> Result<Option<Option<String>>, StoreError> {
    let mut connection = pool::acquire(&state.pool).await?;
    let Some(app) = instances::app_of(&mut connection, worker, instance).await? else { return Ok(None) };
    drop(connection);
    let order = state.logs.order(app);
    let _order = order.lock().await;
    let mut transaction = pool::begin(&state.pool).await?;
    let Some(log) = runtime_log::open(&mut transaction, worker, instance).await? else { return Ok(None) };
    let cursor = match step {
        Step::Platform => log.cursor,
        Step::Worker(Some((after, cursor))) if after == log.cursor.as_deref() => {
            runtime_log::move_cursor(&mut transaction, instance, cursor).await?;
            Some(cursor.to_owned())
        }
        Step::Worker(_) => return Ok(Some(log.cursor)),
    };
    let now = state.clock.now();
    let stored = runtime_log::append(&mut transaction, app, instance, lines, now).await?;
    pool::commit(transaction).await?;
    state.logs.push(app, stored, now);
    state.logs.call_for_pruning(app, state.config.logs.bytes_max_per_app);
    Ok(Some(cursor))
}

fn new_line(line: &LogLine, now: OffsetDateTime) -> NewLine {
    let stream = match line.stream {
        payload::Stream::Stdout => Stream::Stdout,
        payload::Stream::Stderr => Stream::Stderr,
        payload::Stream::System => Stream::System,
    };
    NewLine { at: OffsetDateTime::parse(&line.at, &Rfc3339).unwrap_or(now), stream, text: line.text.clone() }
}
