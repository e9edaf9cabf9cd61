//! What containers have written to their own disks, and whether that is more than they may.
//!
//! Where the file system holds a limit, no instance can write more; it is stopped a little before, since a program that finds its
//! disk full serves no more. Where it does not, the count is all there is. Invariant: counting takes a twentieth of a processor
//! at most, however many files there are.

use crate::{
    host::{Host, LABEL_DISK, LABEL_INSTANCE},
    instances::Running,
};
use std::{collections::HashMap, error::Error, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use wisehosting_containers::{Container, ContainerId, Engine};

/// Shortest time between two counts.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// The same where an instance has a limit.
const PAUSE_MIN_LIMITED: Duration = Duration::from_secs(10);
/// And as many times as long as the count took.
const PAUSE_FACTOR: u32 = 20;
/// This part of a limit that the file system holds is left free when an instance is stopped.
const HELD_REST: u64 = 32;

/// What each container has written and not removed, in bytes, as of the last count.
pub type Written = HashMap<ContainerId, u64>;

/// Counts for ever.
pub(crate) async fn count<E: Engine>(
    host: &Host<E>,
    mut running: watch::Receiver<Option<Vec<Running>>>,
    written: &watch::Sender<Written>,
) {
    loop {
        let began = Instant::now();
        match host.engine.written_bytes(LABEL_INSTANCE).await {
            Ok(counted) => drop(written.send_replace(counted)),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn Error,
                    "what containers have written cannot be counted"
                );
            }
        }
        let took = began.elapsed();
        let due = |running: &[Running]| {
            let is_limited = running.iter().any(|running| running.disk_limited);
            let least = if is_limited { PAUSE_MIN_LIMITED } else { PAUSE_MIN };
            began + took + least.max(took * PAUSE_FACTOR)
        };
        loop {
            let until = due(running.borrow_and_update().as_deref().unwrap_or_default());
            match timeout_at(until, running.changed()).await {
                Ok(Ok(())) => {}
                // Nobody says what runs any more: the worker ends.
                Ok(Err(_)) => tokio::time::sleep_until(until).await,
                Err(_) => break,
            }
        }
    }
}

/// How much an instance may have written before it is stopped. `held`: whether its file system holds the limit.
pub(crate) fn most(limit_bytes: u64, held: bool) -> u64 {
    if held { limit_bytes - limit_bytes / HELD_REST } else { limit_bytes }
}

/// Whether a container has a limit.
pub(crate) fn is_limited(container: &Container) -> bool {
    container.labels.contains_key(LABEL_DISK)
}

/// Whether a container has written more than it may.
pub(crate) fn is_too_much(container: &Container, written: &Written) -> bool {
    let most = container.labels.get(LABEL_DISK).and_then(|text| text.parse::<u64>().ok());
    most.zip(written.get(&container.id)).is_some_and(|(most, written)| *written > most)
}
