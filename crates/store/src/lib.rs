//! The only crate that knows SQL: one file per aggregate, rows private, domain types out.
//!
//! A function takes the connection that it runs on, so that its caller says what belongs into one transaction. What
//! belongs to a user is asked for with the owner's id first. Times and ids are passed in.

pub mod apps;
pub mod build_log;
pub mod certificates;
pub mod changes;
pub mod deployment_state;
pub mod deployments;
pub mod edges;
pub mod error;
pub mod instances;
pub mod jobs;
pub mod join_tokens;
pub mod joined_nodes;
mod nodes;
pub mod pool;
pub mod resting_addresses;
pub mod rollout;
pub mod routes;
pub mod runtime_log;
pub mod sealed;
pub mod users;
pub mod violations;
pub mod workers;

pub use error::StoreError;
pub use nodes::DeclaredNode;
pub use sqlx::{PgConnection, PgPool};

/// A connection of the pool; it goes back when it is dropped.
pub type Connection = sqlx::pool::PoolConnection<sqlx::Postgres>;

/// A transaction; it is rolled back unless it is committed.
pub type Transaction = sqlx::Transaction<'static, sqlx::Postgres>;

/// All migrations, embedded.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");
