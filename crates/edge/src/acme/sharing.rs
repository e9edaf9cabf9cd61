//! What edges know of each other's certificates, through the control plane: whose turn it is to order, what all show
//! meanwhile, which certificates there are.
//!
//! Invariant: an order that the control plane has given to this edge is listed as running for as long as somebody may still
//! have to hear how it ended.

use super::challenges::Challenges;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use wisehosting_domain::{certificate::Challenge, id::JobId, name::Hostname};
use wisehosting_node::{channel::ChannelHandle, random};
use wisehosting_protocol::payload::{
    Certificate, CertificateOrder, Certificates, ChallengesShown, Order, OrderStep,
};

/// For the control plane to say whose turn it is, and to hear of a failure before it is told again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// For all edges to show a challenge. One that does not may not be asked.
const SHOWN_PATIENCE: Duration = Duration::from_secs(20);
/// After that a failure is this edge's alone.
const FAILURE_PATIENCE: Duration = Duration::from_secs(120);
/// Certificates that wait to be written to disk: they are asked for one by one.
const RECEIVED_LEN: usize = 4;

/// What is known; none while the control plane is away.
pub(super) type Known = Option<Arc<Certificates>>;

/// Where the agent puts what the control plane says.
#[derive(Debug)]
pub struct Mailbox {
    known: watch::Sender<Known>,
    received: mpsc::Sender<Certificate>,
    challenges: Arc<Challenges>,
    running: Running,
}

/// This edge's part in it.
#[derive(Debug)]
pub struct Sharing {
    pub(super) turns: Turns,
    /// Certificates that were asked for.
    pub(super) received: mpsc::Receiver<Certificate>,
}

/// The orders that this edge works on.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<Mutex<BTreeSet<JobId>>>);

/// A mailbox and its other side. What is to be shown goes to `challenges`.
#[must_use]
pub fn sharing(challenges: Arc<Challenges>, running: Running, channel: ChannelHandle) -> (Mailbox, Sharing) {
    let (known, known_out) = watch::channel(None);
    let (received, received_out) = mpsc::channel(RECEIVED_LEN);
    let turns = Turns { known: known_out, running: running.clone(), channel };
    (Mailbox { known, received, challenges, running }, Sharing { turns, received: received_out })
}

impl Mailbox {
    /// Takes what the control plane knows; what is to be answered.
    pub fn put(&self, known: Certificates) -> ChallengesShown {
        self.challenges.share(&known.orders);
        let challenges = known.orders.values().filter_map(|order| order.challenge.as_ref());
        let tokens = challenges.map(|challenge| challenge.token.clone()).collect();
        self.known.send_replace(Some(Arc::new(known)));
        ChallengesShown { tokens }
    }

    /// Takes a certificate that was asked for.
    pub fn receive(&self, certificate: Certificate) {
        // One that finds no room is asked for again.
        let _ = self.received.try_send(certificate);
    }

    /// The control plane is away. What was to be shown still is.
    pub fn disconnect(&self) {
        self.known.send_replace(None);
    }

    /// The orders that this edge works on.
    #[must_use]
    pub fn running(&self) -> Vec<JobId> {
        self.running.list()
    }
}

impl Running {
    /// All of them.
    #[must_use]
    pub fn list(&self) -> Vec<JobId> {
        self.orders().iter().copied().collect()
    }

    fn orders(&self) -> MutexGuard<'_, BTreeSet<JobId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for the right to order.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    pub(super) known: watch::Receiver<Known>,
    pub(super) channel: ChannelHandle,
    running: Running,
}

/// The right to order for a host name. While it is there, it is listed as running.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    host: Hostname,
    id: JobId,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// Another edge has it, or the name is held back, or there is a certificate: what is known says so.
    Taken,
    /// The control plane does not say.
    NoAnswer,
}

impl Turns {
    /// Asks for the right to order for a name for which this edge has a certificate that is good from `held_not_before_ms`
    /// on.
    pub(super) async fn take(
        mut self,
        host: &Hostname,
        held_not_before_ms: Option<u64>,
    ) -> Result<Turn, NoTurn> {
        let turn = Turn { turns: self.clone(), host: host.clone(), id: JobId(random::uuid()) };
        self.running.orders().insert(turn.id);
        turn.say(OrderStep::Begin { held_not_before_ms }).await;
        let answer = self.known.wait_for(|known| {
            known
                .as_ref()
                .is_none_or(|known| turn.is_in(known) || !may_order(known, host, held_not_before_ms))
        });
        match timeout(ANSWER_PATIENCE, answer).await {
            Ok(Ok(known)) if known.as_ref().is_some_and(|known| turn.is_in(known)) => {}
            Ok(Ok(known)) if known.is_some() => return Err(NoTurn::Taken),
            _ => return Err(NoTurn::NoAnswer),
        }
        Ok(turn)
    }
}

impl Turn {
    /// The name that is ordered for.
    pub(super) fn host(&self) -> &Hostname {
        &self.host
    }

    /// Has all edges show a challenge, and waits until they do, or for long enough.
    pub(super) async fn show(&self, challenge: Challenge) {
        let token = challenge.token.clone();
        self.say(OrderStep::Challenge(challenge)).await;
        let is_shown = |order: &Order| {
            order.shown && order.challenge.as_ref().is_some_and(|challenge| challenge.token == token)
        };
        let mut known = self.turns.known.clone();
        let shown = known.wait_for(|known| self.order_in(known).is_some_and(is_shown));
        if timeout(SHOWN_PATIENCE, shown).await.is_err() {
            tracing::warn!(host.name = %self.host, "not all edges show the challenge; ordering all the same");
        }
    }

    /// Says that there is no certificate until the control plane has heard it.
    pub(super) async fn fail(self) {
        let heard = async {
            let mut known = self.turns.known.clone();
            loop {
                self.say(OrderStep::Failed).await;
                let heard = known.wait_for(|known| known.as_ref().is_some_and(|known| !self.is_in(known)));
                if timeout(ANSWER_PATIENCE, heard).await.is_ok() {
                    return;
                }
            }
        };
        if timeout(FAILURE_PATIENCE, heard).await.is_err() {
            tracing::warn!(host.name = %self.host, "the control plane has not heard that an order failed");
        }
    }

    /// Whether it is this edge's turn still.
    pub(super) fn is_in(&self, known: &Certificates) -> bool {
        known.orders.get(&self.host).is_some_and(|order| order.order_id == self.id)
    }

    fn order_in<'a>(&self, known: &'a Known) -> Option<&'a Order> {
        known.as_ref()?.orders.get(&self.host).filter(|order| order.order_id == self.id)
    }

    async fn say(&self, step: OrderStep) {
        let order = CertificateOrder { host: self.host.clone(), order_id: self.id, step };
        // The channel ends with the program.
        let _ = self.turns.channel.send(order).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.running.orders().remove(&self.id);
    }
}

/// Whether an edge with a certificate that is good from `held_not_before_ms` on may ask for the right to order.
pub(super) fn may_order(known: &Certificates, host: &Hostname, held_not_before_ms: Option<u64>) -> bool {
    let newer = known.stored.get(host).is_some_and(|stored| Some(stored.not_before_ms) > held_not_before_ms);
    !newer && !known.orders.contains_key(host) && !known.held_back.contains(host)
}
