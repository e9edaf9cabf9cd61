//! What Postgres announces when a transaction is committed.
//!
//! An announcement that is made while nobody listens is lost: who connects looks at everything first. A listener has a
//! connection of its own beside the pool, whose connections are for work that ends.

use sqlx::postgres::{PgListener, PgPoolOptions};

use crate::{PgPool, StoreError, error::doing};

/// Changes of what users see, as JSON: `migrations/*_announce_changes.sql`.
pub const CHANGES: &str = "changes";
/// New jobs, or jobs that were called off; without a content.
pub const JOBS: &str = "jobs";
/// Certificates that an operator had forgotten; without a content.
pub const CERTIFICATES: &str = "certificates";
/// Nodes that joined, were removed or may come back with another key; without a content.
pub const NODES: &str = "nodes";

/// Hears all announcements on one channel from the moment when it is connected.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    /// Begins to listen to the database of `pool`.
    ///
    /// # Errors
    /// The database is away.
    pub async fn connect(pool: &PgPool, channel: &str) -> Result<Self, StoreError> {
        let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let own = own.connect_lazy_with((*pool.connect_options()).clone());
        let mut listener = PgListener::connect_with(&own).await.map_err(doing("listen to Postgres"))?;
        listener.listen(channel).await.map_err(doing("listen to Postgres"))?;
        Ok(Self(listener))
    }

    /// The content of the next announcement.
    ///
    /// # Errors
    /// The connection was lost, and announcements may have been too: connect again.
    pub async fn next(&mut self) -> Result<String, StoreError> {
        match self.0.try_recv().await.map_err(doing("hear from Postgres"))? {
            Some(notification) => Ok(notification.payload().to_owned()),
            None => Err(doing("hear from Postgres")(sqlx::Error::PoolClosed)),
        }
    }
}
