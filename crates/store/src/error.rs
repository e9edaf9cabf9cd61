//! What can go wrong between us and Postgres.
//!
//! Every error names the operation; its cause is its `source`, not part of its text.

use std::error::Error;

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not do it now; the same operation may succeed later.
    #[error("{operation}: the database is not available")]
    Unavailable {
        /// What was being done.
        operation: &'static str,
        /// What Postgres or the socket said.
        #[source]
        source: sqlx::Error,
    },
    /// Something with this name or number exists.
    #[error("{operation}: it exists already ({constraint})")]
    Conflict {
        /// What was being done.
        operation: &'static str,
        /// The constraint that was hit.
        constraint: String,
    },
    /// There is no such row, or it belongs to somebody else.
    #[error("{operation}: not found")]
    NotFound {
        /// What was being done.
        operation: &'static str,
    },
    /// A row holds what the program never writes.
    #[error("{operation}: the database holds a value that makes no sense")]
    Inconsistent {
        /// What was being done.
        operation: &'static str,
        /// Which value, and why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The schema could not be brought up to date.
    #[error("migrate the database")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Anything else that Postgres refused.
    #[error("{operation}")]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// What Postgres said.
        #[source]
        source: sqlx::Error,
    },
}

impl StoreError {
    /// Whether the same operation may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Migrate(sqlx::migrate::MigrateError::Execute(error)) => is_unavailable(error),
            _ => false,
        }
    }
}

/// Turns an error of sqlx into ours: `query.execute(conn).await.map_err(doing("create the app"))?`.
pub(crate) fn doing(operation: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| match source {
        sqlx::Error::RowNotFound => StoreError::NotFound { operation },
        source if is_unavailable(&source) => StoreError::Unavailable { operation, source },
        source => match conflict(&source) {
            Some(constraint) => StoreError::Conflict { operation, constraint },
            None => StoreError::Sql { operation, source },
        },
    }
}

/// For a value in a row that does not parse: `row.state.parse().map_err(inconsistent("load the job"))?`.
pub(crate) fn inconsistent<E>(operation: &'static str) -> impl Fn(E) -> StoreError
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    move |source| StoreError::Inconsistent { operation, source: source.into() }
}

/// What passes, by the beginning of its SQLSTATE: no connection; a server that starts or stops, is out of connections, memory
/// or disk space, or, after a failover, is not the one that may be written to; and transactions that got in each other's way.
const PASSING: [&str; 6] = ["08", "57P", "53", "25006", "40001", "40P01"];

/// No connection, or an error that passes.
fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| PASSING.iter().any(|passing| code.starts_with(passing)))
        }
        _ => false,
    }
}

fn conflict(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    let constraint = error.constraint().unwrap_or("unnamed constraint");
    error.is_unique_violation().then(|| constraint.to_owned())
}
