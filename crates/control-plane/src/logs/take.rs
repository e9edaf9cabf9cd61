//! What workers send is stored, and then shown.
//!
//! Invariant: lines are stored only if they follow on what is stored of their instance, together with where they end.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::OwnedMutexGuard;
use wisehosting_domain::{
    id::{AppId, InstanceId},
    name::Label,
};
use wisehosting_protocol::payload::{self, LogLine, RuntimeLog};
use wisehosting_store::{
    StoreError, Transaction, instances, pool,
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
    let dropped = Ok(log.cursor.clone());
    let Some(turn) = Turn::take(state, worker, log.instance_id).await? else { return dropped };
    let mut transaction = pool::begin(&state.pool).await?;
    let Some(stored) = runtime_log::open(&mut transaction, worker, log.instance_id).await? else {
        state.logs.remove(turn.app);
        return dropped;
    };
    let next = log.cursor.as_deref().filter(|_| log.after == stored.cursor);
    let Some(cursor) = next else { return Ok(stored.cursor) };
    runtime_log::move_cursor(&mut transaction, log.instance_id, cursor).await?;
    let lines = log.lines.iter().map(|line| new_line(line, state.clock.now())).collect();
    turn.store(transaction, log.instance_id, lines).await?;
    Ok(Some(cursor.to_owned()))
}

/// The turn to store lines of an app: one at a time has it, so that they are pushed in the order of their numbers.
///
/// If it ends without them, what Postgres has is not known: a worker that does not go on where its log ends has seen a commit
/// that we have not, or we one that Postgres has lost. Then the app's ring forgets what it has.
pub(crate) struct Turn<'a> {
    state: &'a AppState,
    app: AppId,
    /// Whether the ring agrees with Postgres.
    certain: bool,
    _order: OwnedMutexGuard<()>,
}

impl<'a> Turn<'a> {
    /// Waits for the turn of the app of this instance; none if `worker` has no such instance. Holds no connection meanwhile.
    pub(crate) async fn take(
        state: &'a AppState,
        worker: &Label,
        instance: InstanceId,
    ) -> Result<Option<Self>, StoreError> {
        let mut connection = pool::acquire(&state.pool).await?;
        let Some(app) = instances::app_of(&mut connection, worker, instance).await? else { return Ok(None) };
        drop(connection);
        let order = state.logs.order(app).lock_owned().await;
        Ok(Some(Self { state, app, certain: false, _order: order }))
    }

    /// Stores lines of an instance of the app with all else that the transaction has done.
    pub(crate) async fn store(
        mut self,
        mut transaction: Transaction,
        instance: InstanceId,
        lines: Vec<NewLine>,
    ) -> Result<(), StoreError> {
        let (state, app, now) = (self.state, self.app, self.state.clock.now());
        let stored = runtime_log::append(&mut transaction, app, instance, lines, now).await?;
        pool::commit(transaction).await?;
        self.certain = true;
        if !stored.is_empty() {
            state.logs.push(app, stored, now);
            state.logs.call_for_pruning(app, state.config.logs.bytes_max_per_app);
        }
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.certain {
            self.state.logs.doubt(self.app);
        }
    }
}

fn new_line(line: &LogLine, now: OffsetDateTime) -> NewLine {
    let stream = match line.stream {
        payload::Stream::Stdout => Stream::Stdout,
        payload::Stream::Stderr => Stream::Stderr,
        payload::Stream::System => Stream::System,
    };
    NewLine { at: OffsetDateTime::parse(&line.at, &Rfc3339).unwrap_or(now), stream, text: line.text.clone() }
}
