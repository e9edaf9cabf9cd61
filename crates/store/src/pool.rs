//! Connections to Postgres, which may be away when we start and go away at any time.
//!
//! The pool opens connections when they are needed and replaces broken ones, so nothing but a retry is needed after an
//! outage.

use crate::{MIGRATOR, StoreError, Transaction, error::doing};
use sqlx::{
    PgConnection, PgPool,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr, time::Duration};
use tracing::{info, warn};

/// How long a request waits for a connection before it says that the database is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: u32 = 16;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A pool for `url` that connects when it is first used.
///
/// # Errors
/// The address cannot be understood.
pub fn open(url: &str, password: Option<&str>) -> Result<PgPool, StoreError> {
    let mut options = PgConnectOptions::from_str(url).map_err(doing("read the database address"))?;
    options = options.application_name("wisehosting-control-plane");
    if let Some(password) = password {
        options = options.password(password);
    }
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// Brings the schema up to date; waits for Postgres as long as it takes, and says so.
///
/// # Errors
/// Postgres answers, but the schema cannot be brought up to date.
pub async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    let mut away = false;
    loop {
        match try_migrate(pool).await {
            Ok(()) if away => {
                info!("the database is back");
                return Ok(());
            }
            Ok(()) => return Ok(()),
            Err(error) if error.is_unavailable() => {
                if !away {
                    warn!(error = &error as &dyn std::error::Error, "waiting for the database");
                }
                away = true;
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn try_migrate(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(doing("connect to the database"))?;
    // Not `run`: its future is not provably `Send`.
    MIGRATOR.run_direct(None, &mut *connection, false).await.map_err(|error| match error {
        MigrateError::Execute(source) => doing("migrate the database")(source),
        error => StoreError::Migrate(error),
    })
}

/// A connection of the pool.
///
/// # Errors
/// The database is away.
pub async fn acquire(pool: &PgPool) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, StoreError> {
    pool.acquire().await.map_err(doing("connect to the database"))
}

/// A transaction on a connection of the pool.
///
/// # Errors
/// The database is away.
pub async fn begin(pool: &PgPool) -> Result<Transaction, StoreError> {
    pool.begin().await.map_err(doing("begin a transaction"))
}

/// Commits a transaction.
///
/// # Errors
/// The database is away: nothing of it is stored, unless the answer alone was lost.
pub async fn commit(transaction: Transaction) -> Result<(), StoreError> {
    transaction.commit().await.map_err(doing("commit a transaction"))
}

/// Tells every listener on `channel`, once the transaction of `connection` is committed.
///
/// # Errors
/// The database is away.
pub async fn notify(connection: &mut PgConnection, channel: &str) -> Result<(), StoreError> {
    let notify = sqlx::query!("SELECT pg_notify($1, '')", channel);
    notify.execute(connection).await.map_err(doing("notify listeners")).map(|_| ())
}
