//! Removes lines of apps and of builds that are too old, or too many of one app.

use std::time::Duration;

use wisehosting_store::{StoreError, build_log, pool, runtime_log};

use crate::{state::AppState, tasks::Reconciler};

/// How often to look when no app writes much.
const INTERVAL: Duration = Duration::from_secs(600);

/// Keeps what is stored within its limits.
pub struct Pruner(pub AppState);

impl Reconciler for Pruner {
    const NAME: &'static str = "old logs";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        let (limits, now) = (&self.0.config.logs, self.0.clock.now());
        self.0.logs.forget_old(now);
        let before = now - time::Duration::days(limits.age_max_days.into());
        let mut connection = pool::acquire(&self.0.pool).await?;
        let chunks = runtime_log::prune(&mut connection, before, limits.bytes_max_per_app).await?;
        let lines = build_log::prune(&mut connection, before, limits.builds_max_per_app).await?;
        if chunks + lines > 0 {
            tracing::debug!(chunks, build.lines = lines, "old logs are removed");
        }
        Ok(INTERVAL)
    }
}
