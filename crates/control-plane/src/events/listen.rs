//! The one listener to Postgres' announcements.

use std::{error::Error, time::Duration};

use tokio::time::sleep;
use wisehosting_store::changes::{CHANGES, Listener};

use super::{Change, ChangeKind};
use crate::state::AppState;

const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Receives announcements until the program ends. After an outage everybody is told to look at everything again.
pub async fn listen(state: AppState) {
    tokio::select! {
        () = state.shutdown.cancelled() => {}
        () = receive(&state) => {}
    }
}

async fn receive(state: &AppState) {
    loop {
        if let Ok(mut listener) = Listener::connect(&state.pool, CHANGES).await {
            state.changes.publish(Change::of_all(ChangeKind::Everything));
            while let Ok(announcement) = listener.next().await {
                publish(state, &announcement);
            }
        }
        sleep(RETRY_INTERVAL).await;
    }
}

fn publish(state: &AppState, announcement: &str) {
    match serde_json::from_str(announcement) {
        Ok(change) => state.changes.publish(change),
        Err(error) => tracing::error!(error = &error as &dyn Error, announcement, "a change cannot be read"),
    }
}
