//! What an edge says: which tables it serves, which it has no more requests on, which certificates it orders.

use std::error::Error;

use wisehosting_protocol::{
    message::AgentMessage,
    payload::{Heartbeat, Register, RoutesAck},
};
use wisehosting_store::{StoreError, certificates as orders, edges, pool};

use super::{Membership, conversation::Unhandled};
use crate::{
    certificates::{self, LEASE},
    state::AppState,
};

/// The messages of one edge's connection.
pub(super) struct EdgeAgent {
    state: AppState,
    membership: Membership,
    /// The generation that is written down as the one that it serves.
    noted: Option<u64>,
}

impl EdgeAgent {
    pub(super) fn new(state: AppState, membership: Membership) -> Self {
        Self { state, membership, noted: None }
    }

    pub(super) async fn handle(&mut self, message: &AgentMessage) -> Result<(), Unhandled> {
        match message {
            AgentMessage::Register(register) => self.register(register).await?,
            AgentMessage::Heartbeat(heartbeat) => self.heartbeat(heartbeat).await?,
            AgentMessage::RoutesAck(ack) => self.routes_ack(ack).await,
            AgentMessage::RoutesDrained(drained) => {
                let news = self.membership.update_edge(|edge| edge.drained_generation = drained.generation);
                if news.is_some() {
                    self.state.signals.rollout.notify_one();
                }
            }
            AgentMessage::Certificate(given) => {
                certificates::keep(&self.state, &self.membership.node.name, given).await?;
            }
            AgentMessage::CertificateGet(get) => {
                if let Some(certificate) = certificates::get(&self.state, &get.host).await? {
                    self.membership.send(certificate).await;
                }
            }
            AgentMessage::CertificateOrder(order) => {
                certificates::step(&self.state, &self.membership.node.name, order).await?;
            }
            AgentMessage::ChallengesShown(shown) => {
                let tokens = shown.tokens.iter().cloned().collect();
                if self.membership.update_edge(|edge| edge.shows = tokens).is_some() {
                    self.state.signals.certificates.notify_one();
                }
            }
            AgentMessage::MeshStatus(status) => {
                let (name, now) = (&self.membership.node.name, self.state.clock.now());
                self.state.hub.mesh().told(name, status.clone(), now);
            }
            AgentMessage::Error(error) => {
                tracing::warn!(edge.name = %self.membership.node.name, message = error.message, "an edge reports");
            }
            _ => return Err(Unhandled::WrongRole),
        }
        Ok(())
    }

    async fn register(&self, register: &Register) -> Result<(), StoreError> {
        let mut connection = pool::acquire(&self.state.pool).await?;
        let (name, now) = (&self.membership.node.name, self.state.clock.now());
        edges::connected(&mut connection, name, &register.version, now).await?;
        orders::keep_only(&mut connection, name, &register.running_jobs).await?;
        orders::renew(&mut connection, name, &register.running_jobs, now + LEASE).await?;
        self.state.signals.certificates.notify_one();
        self.state.signals.rollout.notify_one();
        Ok(())
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let mut connection = pool::acquire(&self.state.pool).await?;
        let (name, now) = (&self.membership.node.name, self.state.clock.now());
        edges::seen(&mut connection, name, now).await?;
        if !heartbeat.running_jobs.is_empty() {
            orders::renew(&mut connection, name, &heartbeat.running_jobs, now + LEASE).await?;
        }
        Ok(())
    }

    async fn routes_ack(&mut self, ack: &RoutesAck) {
        let name = &self.membership.node.name;
        let problems: Vec<_> = ack.problems.iter().map(|p| (p.instance_id, p.message.clone())).collect();
        // First what the rollout waits for; the row is for people.
        let news = self.membership.update_edge(|edge| {
            edge.acked_generation = ack.generation;
            edge.problems.clone_from(&problems);
        });
        if let Some(before) = news {
            for (instance, message) in problems.iter().filter(|problem| !before.problems.contains(problem)) {
                tracing::warn!(edge.name = %name, instance.id = %instance, message, "an edge cannot reach an instance");
            }
            self.state.signals.rollout.notify_one();
        }
        if self.noted != Some(ack.generation) {
            match self.note_ack(ack.generation).await {
                Ok(()) => self.noted = Some(ack.generation),
                Err(error) => {
                    tracing::warn!(edge.name = %name, error = &error as &dyn Error, "an edge's generation is not noted");
                }
            }
        }
    }

    async fn note_ack(&self, generation: u64) -> Result<(), StoreError> {
        let mut connection = pool::acquire(&self.state.pool).await?;
        edges::acked(&mut connection, &self.membership.node.name, generation, self.state.clock.now()).await
    }
}
