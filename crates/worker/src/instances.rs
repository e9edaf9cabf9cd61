//! The instances on this host: watched, started again when they end, their state and logs reported.
//!
//! Invariants: an instance runs until a job stops it, whether the control plane is there or not; what a job is at work
//! on is not touched; a state is offered until it was taken once.

use crate::{
    bandwidth,
    host::{self, Host, LABEL_INSTANCE},
    jobs::Jobs,
    restart::Restarts,
    runtime_log::{self, Cursor},
};
use std::{
    collections::{HashMap, HashSet},
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use wisehosting_containers::{Container, ContainerState, Engine};
use wisehosting_domain::id::InstanceId;
use wisehosting_protocol::payload::AppStatus;

/// How often to look when nothing calls for it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// How many instances run, for the heartbeat.
#[derive(Clone, Debug, Default)]
pub struct RunningCount(Arc<AtomicU32>);

impl RunningCount {
    /// As of the last look.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The instances on this host.
pub struct Instances<E> {
    host: Arc<Host<E>>,
    jobs: Jobs<E>,
    changed: Arc<Notify>,
    /// Told to report every state anew.
    report_all: Arc<Notify>,
    running: RunningCount,
    known: HashMap<InstanceId, Known>,
    /// Whether what is found now was there before this program.
    first_look: bool,
    engine_away: bool,
}

/// What is known of one instance.
struct Known {
    restarts: Restarts,
    cursor: Cursor,
    follower: Option<JoinHandle<Cursor>>,
    /// The state that the control plane was told: whether it runs, and its exit status.
    reported: Option<(bool, Option<i64>)>,
    /// Whether it must be told again, although it is the same.
    tell_again: bool,
    /// Whether its traffic could not be limited at the last look.
    unlimited: bool,
}

impl<E: Engine> Instances<E> {
    /// The instances of a host. `changed` calls for a look, `report_all` for a report of every state.
    #[must_use]
    pub fn new(host: Arc<Host<E>>, jobs: Jobs<E>, changed: Arc<Notify>, report_all: Arc<Notify>) -> Self {
        Self {
            host,
            jobs,
            changed,
            report_all,
            running: RunningCount::default(),
            known: HashMap::new(),
            first_look: true,
            engine_away: false,
        }
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> RunningCount {
        self.running.clone()
    }

    /// Watches for ever.
    pub async fn watch(mut self) {
        loop {
            let next = self.look().await;
            let report_all = self.report_all.clone();
            tokio::select! {
                () = report_all.notified() => self.forget_reports(),
                _ = timeout_at(next, self.changed.notified()) => {}
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn forget_reports(&mut self) {
        for known in self.known.values_mut() {
            known.tell_again = true;
        }
    }

    /// Looks at all instances, does what is due, and says when to look again.
    async fn look(&mut self) -> Instant {
        let mut next = Instant::now() + LOOK_EVERY;
        let Some(containers) = self.containers().await else { return next };
        let mut running = 0;
        let mut found = HashSet::new();
        for container in &containers {
            let Some(instance) = host::instance_of(container) else { continue };
            found.insert(instance);
            if container.state == ContainerState::Running {
                running += 1;
                self.limit_bandwidth(instance, container).await;
                self.follow(instance, container).await;
            }
            if !self.jobs.is_busy(instance) {
                self.report(instance, container.state);
                if let Some(due) = self.start_again_if_due(instance, container).await {
                    next = next.min(due);
                }
            }
        }
        self.running.0.store(running, Ordering::Relaxed);
        self.forget_gone(&found);
        self.first_look = false;
        next
    }

    async fn containers(&mut self) -> Option<Vec<Container>> {
        match self.host.engine.containers(LABEL_INSTANCE).await {
            Ok(containers) => {
                self.engine_away = false;
                Some(containers)
            }
            Err(error) => {
                if !self.engine_away {
                    tracing::error!(
                        error = &error as &dyn Error,
                        "the instances cannot be watched until the engine answers"
                    );
                }
                self.engine_away = true;
                None
            }
        }
    }

    fn known(&mut self, instance: InstanceId) -> &mut Known {
        let cursor = if self.first_look { Cursor::End } else { Cursor::Start };
        self.known.entry(instance).or_insert_with(|| Known {
            restarts: Restarts::new(Instant::now()),
            cursor,
            follower: None,
            reported: None,
            tell_again: false,
            unlimited: false,
        })
    }

    /// A container that was started again, by whomever, has new links.
    async fn limit_bandwidth(&mut self, instance: InstanceId, container: &Container) {
        let limited = bandwidth::limit(container).await;
        let known = self.known(instance);
        if let Err(error) = &limited
            && !known.unlimited
        {
            tracing::error!(instance.id = %instance, error = error as &dyn Error, "the traffic of an instance cannot be limited");
        }
        known.unlimited = limited.is_err();
    }

    /// Follows the log of a container that runs, unless that is being done.
    async fn follow(&mut self, instance: InstanceId, container: &Container) {
        let (host, changed) = (self.host.clone(), self.changed.clone());
        let known = self.known(instance);
        if let Some(follower) = &mut known.follower {
            if !follower.is_finished() {
                return;
            }
            known.cursor = follower.await.unwrap_or(known.cursor);
        }
        let (id, cursor) = (container.id.clone(), known.cursor);
        known.follower = Some(tokio::spawn(async move {
            let cursor = runtime_log::follow(host, instance, id, cursor).await;
            // A log ends with its program, mostly: reason enough for a look.
            changed.notify_one();
            cursor
        }));
    }

    fn report(&mut self, instance_id: InstanceId, state: ContainerState) {
        let status = match state {
            ContainerState::Running => (true, None),
            ContainerState::Exited { code, .. } => (false, Some(code)),
            ContainerState::Created => (false, None),
        };
        self.offer_status(instance_id, status);
    }

    fn offer_status(&mut self, instance_id: InstanceId, (running, exit_code): (bool, Option<i64>)) {
        let observed_at_ms = self.host.clock.now_ms();
        let outbox = self.host.outbox.clone();
        let known = self.known(instance_id);
        if known.reported == Some((running, exit_code)) && !known.tell_again {
            return;
        }
        if outbox.offer(AppStatus { instance_id, running, exit_code, observed_at_ms }) {
            known.reported = Some((running, exit_code));
            known.tell_again = false;
        }
    }

    /// Starts a container that has ended if it is time for it; says when, if it is not.
    async fn start_again_if_due(&mut self, instance: InstanceId, container: &Container) -> Option<Instant> {
        if container.state == ContainerState::Running {
            return None;
        }
        let now = Instant::now();
        // What is found at the start of this program has been down for long enough.
        let at_once = self.first_look;
        let due = self.known(instance).restarts.due(now);
        if due > now && !at_once {
            return Some(due);
        }
        tracing::warn!(instance.id = %instance, state = ?container.state, "an instance ended; starting it again");
        if let Err(error) = self.host.engine.start(&container.id).await {
            tracing::error!(instance.id = %instance, error = &error as &dyn Error, "an instance cannot be started again");
        }
        self.known(instance).restarts.started(now);
        Some(now + LOOK_PAUSE)
    }

    /// Reports instances whose container somebody else has removed, and forgets them.
    fn forget_gone(&mut self, found: &HashSet<InstanceId>) {
        let gone: Vec<InstanceId> = self.known.keys().filter(|id| !found.contains(id)).copied().collect();
        for instance in gone {
            if !self.jobs.is_busy(instance) && self.known(instance).reported.is_some() {
                self.offer_status(instance, (false, None));
            }
            self.known.remove(&instance);
        }
    }
}
