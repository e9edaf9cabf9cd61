//! Orders under way.
//!
//! Invariant: each that was begun ends with an outcome for its name, also one that panics; a name without one would never be
//! tried again.

use super::{
    order::OrderError,
    pairs::Pair,
    sharing::{NoTurn, Turn},
};
use std::collections::HashMap;
use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use wisehosting_domain::name::Hostname;

/// How an order ended.
pub(super) enum Outcome {
    /// A pair, and whose turn it was, if not only this edge knows of it.
    Ordered(Pair, Option<Turn>),
    Failed(OrderError, How),
    NotOurTurn(NoTurn),
}

/// Who knows of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Shared,
    Alone,
}

#[derive(Default)]
pub(super) struct Orders {
    running: JoinSet<Outcome>,
    /// What each of them is for, and who knows of it.
    begun: HashMap<Id, (Hostname, How)>,
    /// Those whose certificates the control plane may not have yet, and since when.
    pub(super) ending: Vec<(Turn, Instant)>,
}

impl Orders {
    pub(super) fn len(&self) -> usize {
        self.running.len() + self.ending.len()
    }

    pub(super) fn begin(
        &mut self,
        host: Hostname,
        how: How,
        order: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let id = self.running.spawn(order).id();
        self.begun.insert(id, (host, how));
    }

    /// The next that ends; none if none runs.
    pub(super) async fn next(&mut self) -> Option<(Hostname, Outcome)> {
        let (id, outcome) = match self.running.join_next_with_id().await? {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => {
                tracing::error!(%error, "an order was cut off");
                (error.id(), None)
            }
        };
        let (host, how) = self.begun.remove(&id)?;
        Some((host, outcome.unwrap_or(Outcome::Failed(OrderError::CutOff, how))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_that_panics_has_failed_for_its_name() {
        let mut orders = Orders::default();
        let (a, b): (Hostname, Hostname) =
            ("a.example.org".parse().unwrap(), "b.example.org".parse().unwrap());
        orders.begin(a.clone(), How::Alone, async { panic!("as a test") });
        orders.begin(b.clone(), How::Shared, std::future::pending());
        let (host, outcome) = orders.next().await.unwrap();
        assert_eq!(host, a);
        assert!(matches!(outcome, Outcome::Failed(OrderError::CutOff, How::Alone)));
        assert_eq!(orders.len(), 1, "the other one runs on");
    }
}
