//! The route table on its way to the edges.
//!
//! Postgres holds what the table follows from. This task reads it when it is told of a change and hands it to the hub,
//! which pushes the newest one to every edge; an edge that was away gets it when it connects.

pub mod traefik;

use std::time::Duration;

use wisehosting_store::{StoreError, pool, routes};

use crate::{state::AppState, tasks::Reconciler};

/// A change that nobody told of is seen after this long.
const INTERVAL: Duration = Duration::from_secs(30);

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
