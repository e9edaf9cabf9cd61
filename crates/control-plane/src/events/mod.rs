//! What changed, told to whoever waits: dashboards, watchers of a deployment, background tasks.
//!
//! Postgres announces changes when they are committed (`migrations/*_announce_changes.sql`); one listener receives them
//! and hands them on. An announcement says what to look at again and nothing else, so a lost one costs time only.

mod listen;
pub mod stream_changes;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;
use uuid::Uuid;
use wisehosting_domain::id::{DeploymentId, UserId};

pub use listen::listen;

/// Changes that a slow receiver may be behind before it is told to look at everything again.
const BUFFERED_CHANGES: usize = 256;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Change {
    /// What changed.
    pub kind: ChangeKind,
    /// Whose it is; none is everybody's.
    pub owner: Option<Uuid>,
    /// Name of the app that it is about.
    pub app: Option<String>,
    /// The app or deployment itself.
    pub id: Option<Uuid>,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// An app or its settings.
    App,
    /// A deployment or its instances.
    Deployment,
    /// A build log has grown.
    BuildLog,
    /// A worker or an edge connected, disconnected or said something.
    Node,
    /// Changes may have been missed: look at everything again.
    Everything,
}

impl Change {
    /// A change of something that is nobody's own.
    #[must_use]
    pub fn of_all(kind: ChangeKind) -> Self {
        Self { kind, owner: None, app: None, id: None }
    }

    fn concerns(&self, user: UserId) -> bool {
        self.owner.is_none_or(|owner| owner == user.0)
    }
}

/// Hands changes on to all subscriptions.
#[derive(Clone, Debug)]
pub struct Changes(broadcast::Sender<Change>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(BUFFERED_CHANGES))
    }
}

impl Changes {
    /// Tells everybody who waits.
    pub fn publish(&self, change: Change) {
        // It fails when nobody waits.
        let _ = self.0.send(change);
    }

    /// All changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }
}

/// Changes from one moment on.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Change>);

impl Subscription {
    /// The next change; [`ChangeKind::Everything`] for those that were missed. Waits for ever once there are no more.
    pub async fn next(&mut self) -> Change {
        match self.0.recv().await {
            Ok(change) => change,
            Err(broadcast::error::RecvError::Lagged(_)) => Change::of_all(ChangeKind::Everything),
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Returns when a deployment, its instances or its build log may have changed.
    pub async fn of_deployment(&mut self, id: DeploymentId) {
        loop {
            let change = self.next().await;
            if change.kind == ChangeKind::Everything || change.id == Some(id.0) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_receiver_that_missed_changes_looks_at_everything() {
        let changes = Changes::default();
        let mut subscription = changes.subscribe();
        for _ in 0..=BUFFERED_CHANGES {
            changes.publish(Change::of_all(ChangeKind::Node));
        }
        assert_eq!(subscription.next().await.kind, ChangeKind::Everything);
        assert_eq!(subscription.next().await.kind, ChangeKind::Node);
    }

    #[test]
    fn a_change_concerns_its_owner_only() {
        let owner = UserId(Uuid::from_u128(1));
        let change = Change { owner: Some(owner.0), ..Change::of_all(ChangeKind::App) };
        assert!(change.concerns(owner));
        assert!(!change.concerns(UserId(Uuid::from_u128(2))));
        assert!(Change::of_all(ChangeKind::Node).concerns(owner));
    }
}
