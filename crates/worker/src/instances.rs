//! The instances on this host: watched, started again when they end, their state and logs reported.
//!
//! Invariants: an instance runs until a job stops it or it breaks a limit, whether the control plane is there or not; what
//! a job is at work on is not touched; a state is offered until it was taken once. The engine's events call for a look;
//! where one is missed, the next look by the clock finds the same.

use crate::{
    bandwidth,
    host::{self, Host, LABEL_INSTANCE},
    jobs::Jobs,
    memory_kills::MemoryKills,
    restart::{Restarts, Step},
    runtime_log,
    violations::Violations,
    written::{self, Written},
};
use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};
use wisehosting_containers::{Container, ContainerId, ContainerState, Engine};
use wisehosting_domain::{id::InstanceId, state::ViolationKind};
use wisehosting_protocol::payload::{AppStatus, Violation};

/// How often to look when nothing calls for it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// For the program of an instance that broke a limit to end. Nobody else is looked at meanwhile.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Before the engine is asked again to stop an instance that broke a limit.
const STOP_PAUSE: Duration = Duration::from_secs(2);
/// Before the engine's events are asked for again when it went away.
const EVENTS_PAUSE: Duration = Duration::from_secs(2);

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which.
    pub instance: InstanceId,
    /// Its container.
    pub container: ContainerId,
    /// The file that stands for its network namespace.
    pub network_namespace: Option<PathBuf>,
    /// Whether what it writes to its disk is limited.
    pub disk_limited: bool,
}

/// The instances on this host.
pub struct Instances<E> {
    host: Arc<Host<E>>,
    jobs: Jobs<E>,
    calls: Calls,
    running: watch::Sender<Vec<Running>>,
    known: BTreeMap<InstanceId, Known>,
    violations: Violations,
    evidence: Evidence,
    /// Whether what is found now was there before this program.
    first_look: bool,
    engine_away: bool,
}

/// What tells that an instance has broken a limit, where the engine does not.
struct Evidence {
    memory_kills: MemoryKills,
    written: watch::Receiver<Written>,
}

/// What calls for something before it is time.
struct Calls {
    /// For a look.
    changed: Arc<Notify>,
    /// For a report of every state.
    report_all: Arc<Notify>,
}

/// What is known of one instance.
struct Known {
    restarts: Restarts,
    log: LogState,
    /// Since when it has not run.
    down_since: Option<Instant>,
    /// The state that the control plane was told.
    reported: Option<Condition>,
    /// Whether it must be told again, although it is the same.
    tell_again: bool,
    /// Whether its traffic could not be limited at the last look.
    unlimited: bool,
}

/// How far the log of an instance is sent.
enum LogState {
    /// There may be more than is sent.
    Open,
    /// Somebody sends it, and says whether that was all when its program has ended.
    Followed(JoinHandle<bool>),
    /// All that was written is sent.
    Sent,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    running: bool,
    exit_code: Option<i64>,
    stopped: bool,
}

impl<E: Engine> Instances<E> {
    /// The instances of a host. `changed` calls for a look, `report_all` for a report of every state.
    #[must_use]
    pub fn new(
        host: Arc<Host<E>>,
        jobs: Jobs<E>,
        violations: Violations,
        changed: Arc<Notify>,
        report_all: Arc<Notify>,
    ) -> Self {
        Self {
            host,
            jobs,
            calls: Calls { changed, report_all },
            running: watch::Sender::default(),
            known: BTreeMap::new(),
            violations,
            evidence: Evidence {
                memory_kills: MemoryKills::new(),
                written: watch::Sender::default().subscribe(),
            },
            first_look: true,
            engine_away: false,
        }
    }

    /// Those that run, as of the last look.
    #[must_use]
    pub fn running(&self) -> watch::Receiver<Vec<Running>> {
        self.running.subscribe()
    }

    /// Watches for ever. `written`: what containers have written to their disks.
    pub async fn watch(mut self, written: watch::Receiver<Written>) {
        self.evidence.written = written;
        let events = hear_events(self.host.clone(), self.calls.changed.clone());
        tokio::join!(events, self.look_for_ever());
    }

    async fn look_for_ever(mut self) {
        loop {
            let next = self.look().await;
            let report_all = self.calls.report_all.clone();
            tokio::select! {
                biased;
                // The last sender goes when the worker ends.
                Ok(()) = self.evidence.written.changed() => {}
                () = report_all.notified() => self.forget_reports(),
                _ = timeout_at(next, self.calls.changed.notified()) => {}
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    fn forget_reports(&mut self) {
        for known in self.known.values_mut() {
            known.tell_again = true;
        }
        self.violations.tell_again();
    }

    /// Looks at all instances, does what is due, and says when to look again.
    async fn look(&mut self) -> Instant {
        let mut next = Instant::now() + LOOK_EVERY;
        let Some(containers) = self.containers().await else { return next };
        let found: HashSet<InstanceId> = containers.iter().filter_map(host::instance_of).collect();
        self.violations.retain(&found);
        self.violations.tell(&self.host.outbox);
        if self.host.settings.restart.trust_kernel {
            self.evidence.memory_kills.look(Instant::now(), &containers);
        }
        let mut running = Vec::new();
        for container in &containers {
            let Some(instance) = host::instance_of(container) else { continue };
            if container.state == ContainerState::Running {
                running.push(Running {
                    instance,
                    container: container.id.clone(),
                    network_namespace: container.network_namespace.clone(),
                    disk_limited: written::is_limited(container),
                });
                self.limit_bandwidth(instance, container).await;
            }
            self.follow(instance, container).await;
            if !self.jobs.is_busy(instance) {
                let due = self.attend(instance, container).await;
                next = due.map_or(next, |due| next.min(due));
            }
        }
        self.running.send_replace(running);
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
        self.known.entry(instance).or_insert_with(|| Known {
            restarts: Restarts::new(Instant::now()),
            log: LogState::Open,
            down_since: None,
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

    /// Follows the log of a container that runs, or that has written what was not sent.
    async fn follow(&mut self, instance: InstanceId, container: &Container) {
        let (host, changed) = (self.host.clone(), self.calls.changed.clone());
        let known = self.known(instance);
        if let LogState::Followed(follower) = &mut known.log {
            if !follower.is_finished() {
                return;
            }
            known.log = if follower.await.unwrap_or(false) { LogState::Sent } else { LogState::Open };
        }
        let wanted = match container.state {
            ContainerState::Running => true,
            ContainerState::Exited { .. } => matches!(known.log, LogState::Open),
            ContainerState::Created => false,
        };
        if wanted {
            let id = container.id.clone();
            known.log = LogState::Followed(tokio::spawn(async move {
                let sent = runtime_log::follow(host, instance, id).await;
                // A log ends with its program: reason enough for a look.
                if sent {
                    changed.notify_one();
                }
                sent
            }));
        }
    }

    /// Does what is due for an instance, reports what it is doing, and says when to look at it again.
    async fn attend(&mut self, instance: InstanceId, container: &Container) -> Option<Instant> {
        let now = Instant::now();
        if written::is_too_much(container, &self.evidence.written.borrow())
            && !self.violations.holds(instance)
        {
            self.keep_from_running(instance, ViolationKind::DiskQuota, None);
        }
        if container.state == ContainerState::Running && self.violations.holds(instance) {
            self.stop(instance, container).await;
            return Some(now + STOP_PAUSE);
        }
        let (exit_code, out_of_memory) = match container.state {
            ContainerState::Running => {
                self.known(instance).down_since = None;
                let condition = Condition { running: true, exit_code: None, stopped: false };
                self.report(instance, condition);
                return None;
            }
            ContainerState::Exited { code, out_of_memory } => {
                let guessed = self.host.settings.restart.trust_kernel
                    && self.evidence.memory_kills.explains(&container.id, code, now);
                (Some(code), out_of_memory || guessed)
            }
            ContainerState::Created => (None, false),
        };
        let policy = self.host.settings.restart;
        let known = self.known(instance);
        let stopped_at = *known.down_since.get_or_insert(now) + policy.stopped_after;
        let step = known.restarts.ended(&policy, out_of_memory, now);
        if let Step::Keep(kind) = step
            && !self.violations.holds(instance)
        {
            self.keep_from_running(instance, kind, exit_code);
        }
        let held = self.violations.holds(instance);
        self.report(instance, Condition { running: false, exit_code, stopped: held || now >= stopped_at });
        match step {
            Step::StartAt(due) if !held => {
                let next = self.start_again_if_due(instance, container, due).await;
                Some(if now < stopped_at { next.min(stopped_at) } else { next })
            }
            _ => None,
        }
    }

    /// Stops an instance that broke a limit while it runs.
    async fn stop(&self, instance: InstanceId, container: &Container) {
        if let Err(error) = self.host.engine.stop(&container.id, STOP_GRACE).await {
            tracing::error!(instance.id = %instance, error = &error as &dyn Error, "an instance that broke a limit cannot be stopped yet");
        }
    }

    fn keep_from_running(&mut self, instance_id: InstanceId, kind: ViolationKind, exit_code: Option<i64>) {
        let message = match kind {
            ViolationKind::OutOfMemory => {
                "It used more memory than its limit and was stopped. Raise the limit, or make it use less; then deploy \
                 again."
                    .to_owned()
            }
            ViolationKind::DiskQuota => {
                "It wrote more to its disk than its limit and was stopped. Raise the limit, or make it write less; then \
                 deploy again."
                    .to_owned()
            }
            ViolationKind::CrashLoop => {
                let times = self.host.settings.restart.short_runs_max;
                let last = exit_code.map_or(String::new(), |code| format!(", at last with exit status {code}"));
                format!(
                    "It ended soon after its start {times} times in a row{last}, and is not started again. Its log may \
                     say why; mend it, then deploy again."
                )
            }
        };
        tracing::warn!(instance.id = %instance_id, violation.kind = %kind, "an instance broke a limit; it is kept from running");
        let observed_at_ms = self.host.clock.now_ms();
        self.violations.record(Violation { instance_id, kind, message, observed_at_ms });
        self.violations.tell(&self.host.outbox);
    }

    fn report(&mut self, instance_id: InstanceId, condition: Condition) {
        let observed_at_ms = self.host.clock.now_ms();
        let outbox = self.host.outbox.clone();
        let known = self.known(instance_id);
        if known.reported == Some(condition) && !known.tell_again {
            return;
        }
        let Condition { running, exit_code, stopped } = condition;
        if outbox.offer(AppStatus { instance_id, running, exit_code, stopped, observed_at_ms }) {
            known.reported = Some(condition);
            known.tell_again = false;
        }
    }

    /// Starts a container that has ended if it is time for it; says when to look at it again.
    async fn start_again_if_due(
        &mut self,
        instance: InstanceId,
        container: &Container,
        due: Instant,
    ) -> Instant {
        let now = Instant::now();
        // What is found at the start of this program has been down for long enough.
        if due > now && !self.first_look {
            return due;
        }
        tracing::warn!(instance.id = %instance, state = ?container.state, "an instance ended; starting it again");
        let policy = self.host.settings.restart;
        let started = self.host.engine.start(&container.id).await;
        let known = self.known(instance);
        if let Err(error) = started {
            tracing::error!(instance.id = %instance, error = &error as &dyn Error, "an instance cannot be started again");
            return known.restarts.not_started(&policy, now);
        }
        known.restarts.started(now);
        if matches!(known.log, LogState::Sent) {
            known.log = LogState::Open;
        }
        now + LOOK_PAUSE
    }

    /// Reports instances whose container somebody else has removed, and forgets them.
    fn forget_gone(&mut self, found: &HashSet<InstanceId>) {
        let gone: Vec<InstanceId> = self.known.keys().filter(|id| !found.contains(id)).copied().collect();
        for instance in gone {
            if !self.jobs.is_busy(instance) && self.known(instance).reported.is_some() {
                self.report(instance, Condition { running: false, exit_code: None, stopped: true });
            }
            self.known.remove(&instance);
        }
    }
}

/// Calls for a look whenever the engine says that a container starts, ends or goes away; for ever.
async fn hear_events<E: Engine>(host: Arc<Host<E>>, changed: Arc<Notify>) {
    loop {
        if let Err(error) = host.engine.events(LABEL_INSTANCE, &changed).await {
            tracing::debug!(error = &error as &dyn Error, "the engine's events ended; asking for them again");
        }
        changed.notify_one();
        sleep(EVENTS_PAUSE).await;
    }
}
