//! The route table on its way to the edges.
//!
//! Postgres holds what the table follows from. This task reads it when it is told of a change and hands it to the hub,
//! which pushes the newest one to every edge; an edge that was away gets it when it connects.

pub mod traefik;

use std::time::Duration;

use wisehosting_protocol::{MESSAGE_BYTES_MAX, payload::Routes};
use wisehosting_store::{PgConnection, StoreError, pool, routes};

use crate::{state::AppState, tasks::Reconciler};

/// A change that nobody told of is seen after this long.
const INTERVAL: Duration = Duration::from_secs(30);

/// Bytes of a message that the apps of a full table may still need, as when their instances move to longer addresses.
const RESERVED_BYTES: usize = 64 * 1024;

/// Whether one more app may have a route. A table that is too large for one message would reach no edge, and nor would any
/// after it.
///
/// # Errors
/// The database is away.
pub async fn has_room(conn: &mut PgConnection) -> Result<bool, StoreError> {
    let table = routes::load(conn).await?;
    let message = serde_json::to_vec(&Routes { table }).unwrap_or_default();
    Ok(message.len() + RESERVED_BYTES <= MESSAGE_BYTES_MAX)
}

/// Publishes the route table.
pub struct Publisher(pub AppState);

impl Reconciler for Publisher {
    const NAME: &'static str = "routes";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        let mut connection = pool::acquire(&self.0.pool).await?;
        let table = routes::load(&mut connection).await?;
        if self.0.hub.publish(table) {
            tracing::debug!("published a new route table");
        }
        Ok(INTERVAL)
    }
}
