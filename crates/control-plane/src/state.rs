//! What every handler and every background task shares.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wisehosting_node::clock::Clock;
use wisehosting_store::{PgPool, Transaction, pool};

use crate::{
    config::{Config, Secrets},
    error::Problem,
    events::Changes,
    hub::Hub,
    logs::RuntimeLogs,
    tasks::Signals,
};

/// How long a request waits for the database before it is told that it is away.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Cloned into every handler and task; a clone shares everything.
#[derive(Clone)]
pub struct AppState {
    /// The configuration, which does not change while we run.
    pub config: Arc<Config>,
    /// The secrets that go with it.
    pub secrets: Arc<Secrets>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Connections to Postgres.
    pub pool: PgPool,
    /// What wakes the background tasks.
    pub signals: Signals,
    /// The live connections of workers and edges.
    pub hub: Hub,
    /// What changed, as it changes.
    pub changes: Changes,
    /// What instances wrote lately.
    pub logs: RuntimeLogs,
    /// Cancelled when the program is to end.
    pub shutdown: CancellationToken,
}

impl AppState {
    /// A state at the start of the program: nothing is known yet.
    #[must_use]
    pub fn new(
        config: Config,
        secrets: Secrets,
        clock: Arc<dyn Clock>,
        pool: PgPool,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            config: Arc::new(config),
            secrets: Arc::new(secrets),
            clock,
            pool,
            signals: Signals::default(),
            hub: Hub::default(),
            changes: Changes::default(),
            logs: RuntimeLogs::default(),
            shutdown,
        }
    }

    /// A transaction for one request; it is rolled back unless it is committed.
    ///
    /// # Errors
    /// 503: Postgres is away, or its schema is still being brought up to date.
    pub async fn begin(&self) -> Result<Transaction, Problem> {
        if !*self.signals.database_ready.borrow() {
            return Err(Problem::database_unavailable());
        }
        match timeout(DATABASE_TIMEOUT, pool::begin(&self.pool)).await {
            Ok(transaction) => Ok(transaction?),
            Err(_) => Err(Problem::database_unavailable()),
        }
    }
}
