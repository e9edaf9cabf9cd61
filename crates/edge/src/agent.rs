//! The edge as an agent of the control plane: takes route tables, puts them in force, says so; passes on what is said of
//! certificates.
//!
//! Within one connection a table is never followed by an older one. A new connection begins anew: its first table is
//! taken whatever its generation is, since it is signed, cannot be a recording, and may come from a control plane that
//! was restored from a backup.

use crate::{
    acme::sharing::Mailbox,
    outside::Outside,
    table::{
        Generations, ServingTable,
        change::{new_upstreams, reachable_part},
    },
};
use std::{collections::BTreeMap, error::Error, io, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::{id::InstanceId, routes::RouteTable};
use wisehosting_node::{
    channel::{ChannelHandle, Event},
    usage::{self, CpuMeter},
};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage},
    payload::{ErrorReport, Heartbeat, RouteProblem, RoutesAck, RoutesDrained},
};

/// Until the control plane says how often it wants a heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// However often it wants one.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Keeps what serves visitors at the newest table.
#[derive(Debug)]
pub struct Agent<O> {
    outside: O,
    generations: Arc<Generations>,
    serving: Arc<ServingTable>,
    channel: ChannelHandle,
    mailbox: Mailbox,
    /// The newest generation of this connection.
    newest: Option<u64>,
    /// Instances of the table in force that could not be reached when it was put in force, and why.
    unreached: BTreeMap<InstanceId, String>,
    pulse: Pulse,
}

/// When to say that the edge lives, and what is said of it then.
#[derive(Debug)]
struct Pulse {
    beats: Interval,
    cpu: CpuMeter,
}

impl<O: Outside> Agent<O> {
    /// An agent of an edge that serves `serving`.
    #[must_use]
    pub fn new(
        outside: O,
        generations: Arc<Generations>,
        serving: Arc<ServingTable>,
        channel: ChannelHandle,
        mailbox: Mailbox,
    ) -> Self {
        let pulse = Pulse { beats: every(HEARTBEAT_INTERVAL), cpu: CpuMeter::default() };
        let unreached = BTreeMap::new();
        Self { outside, generations, serving, channel, mailbox, newest: None, unreached, pulse }
    }

    /// Follows the control plane until `shutdown`; gives back what still serves.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, shutdown: &CancellationToken) -> O {
        let mut oldest = self.generations.oldest();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.outside,
                Ok(()) = oldest.changed() => self.report_drained(&mut oldest),
                _ = self.pulse.beats.tick() => self.beat(),
                event = events.recv() => match event {
                    Some(event) => self.take(event, &mut oldest).await,
                    None => return self.outside,
                }
            }
        }
    }

    async fn take(&mut self, event: Event, oldest: &mut watch::Receiver<u64>) {
        match event {
            Event::Connected(registered) => {
                self.newest = None;
                let wanted = Duration::from_millis(registered.heartbeat_interval_ms);
                self.pulse.beats = every(wanted.max(HEARTBEAT_INTERVAL_MIN));
            }
            Event::Disconnected => {
                self.newest = None;
                self.mailbox.disconnect();
            }
            Event::Message(HubMessage::Routes(routes)) if self.is_in_order(&routes.table) => {
                self.newest = Some(routes.table.generation);
                self.serve(routes.table).await;
                self.report_drained(oldest);
            }
            Event::Message(HubMessage::Certificates(known)) => {
                // Without room for the answer, whoever waits for it does not wait for ever.
                let _ = self.channel.try_send(self.mailbox.put(known));
            }
            Event::Message(HubMessage::Certificate(certificate)) => self.mailbox.receive(certificate),
            Event::Message(HubMessage::Error(error)) => {
                tracing::warn!(error.message, "the control plane could not use a message");
            }
            Event::Message(HubMessage::Routes(_)) => self.refuse("an edge takes newer routes only"),
            Event::Message(_) => self.refuse("an edge takes routes and certificates only"),
        }
    }

    fn refuse(&self, message: &str) {
        tracing::warn!(reason = message, "a message of the control plane is not used");
        self.send(ErrorReport { message: message.to_owned() });
    }

    fn is_in_order(&self, table: &RouteTable) -> bool {
        self.newest.is_none_or(|newest| newest <= table.generation)
    }

    /// Puts a table in force as far as its instances can be reached, saves it, and acknowledges it.
    async fn serve(&mut self, wanted: RouteTable) {
        let generation = wanted.generation;
        let in_force = self.serving.table();
        if generation < in_force.generation {
            tracing::warn!(
                generation,
                in_force = in_force.generation,
                "the control plane is behind: was it restored?"
            );
        }
        let unreachable = self.outside.unreachable(new_upstreams(in_force, &wanted, &self.unreached)).await;
        let table = reachable_part(in_force, wanted, &unreachable);
        if table != *in_force {
            if let Err(error) = self.install(table.clone()).await {
                tracing::error!(error = &error as &dyn Error, generation, "cannot serve a new route table");
                self.send(ErrorReport { message: format!("cannot serve route table {generation}: {error}") });
                return;
            }
            self.save(table).await;
        }
        self.unreached.clone_from(&unreachable);
        let problem = |(instance_id, message)| RouteProblem { instance_id, message };
        let problems: Vec<_> = unreachable.into_iter().map(problem).collect();
        for problem in &problems {
            tracing::warn!(generation, instance.id = %problem.instance_id, problem.message, "cannot reach a new instance");
        }
        self.send(RoutesAck { generation, problems });
    }

    async fn install(&mut self, table: RouteTable) -> io::Result<()> {
        let table = Arc::new(ServingTable::new(table, &self.generations));
        self.outside.install(&table).await?;
        self.outside.retire(std::mem::replace(&mut self.serving, table));
        let table = self.serving.table();
        tracing::info!(
            generation = table.generation,
            hosts = table.routes.len(),
            "serving a new route table"
        );
        Ok(())
    }

    /// Saves the table. A table that cannot be saved is in force all the same.
    async fn save(&self, table: RouteTable) {
        if let Err(error) = self.outside.save(table).await {
            let error = &error as &dyn Error;
            tracing::error!(
                error,
                "the route table is not saved: after a restart an older one would be served"
            );
        }
    }

    fn report_drained(&self, oldest: &mut watch::Receiver<u64>) {
        let generation = *oldest.borrow_and_update();
        self.send(RoutesDrained { generation });
    }

    fn beat(&self) {
        let heartbeat = Heartbeat {
            memory_bytes_used: usage::memory_bytes(),
            cpu_millis_used: self.pulse.cpu.millis(),
            instances: None,
            running_jobs: self.mailbox.running(),
        };
        // One that finds no room is followed by a newer one.
        let _ = self.channel.try_send(heartbeat);
    }

    /// Tells the control plane, if it listens. If it does not, a new connection will begin with its routes, and with
    /// the answer to them it learns all of this.
    fn send(&self, message: impl Into<AgentMessage>) {
        if self.newest.is_some() {
            let _ = self.channel.try_send(message);
        }
    }
}

/// Ticks from one period after now on.
fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
