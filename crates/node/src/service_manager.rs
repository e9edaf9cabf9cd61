//! What a program tells the service manager (systemd), if it has one: that it serves, and that it is alive.
//!
//! A program that is asked to prove that it lives (`WATCHDOG_USEC`) says so only after work that would wait if the
//! program hung. One that says nothing for that long is started anew.

use sd_notify::NotifyState;
use tokio::time;

/// The program serves.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Says that the program is alive, twice in each period in which the service manager wants to hear it; for ever.
/// Before each time, `proof` has to end. Spawn it on the runtime whose life it is to show.
pub async fn keep_alive<F: Future<Output = ()>>(mut proof: impl FnMut() -> F) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        proof().await;
        tell(NotifyState::Watchdog);
        time::sleep(period / 2).await;
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager how the program is");
    }
}
