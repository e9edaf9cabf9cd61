//! Forgets old deployments, which hold a copy of the settings each.

use std::time::Duration;

use wisehosting_store::{StoreError, deployments, pool};

use crate::{state::AppState, tasks::Reconciler};

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(600);

/// Keeps what is stored of deployments within its limit.
pub struct Pruner(pub AppState);

impl Reconciler for Pruner {
    const NAME: &'static str = "old deployments";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        let kept = self.0.config.deployments.kept_per_app.get();
        let mut connection = pool::acquire(&self.0.pool).await?;
        let removed = deployments::prune(&mut connection, kept).await?;
        if removed > 0 {
            tracing::debug!(deployments = removed, "old deployments are forgotten");
        }
        Ok(INTERVAL)
    }
}
