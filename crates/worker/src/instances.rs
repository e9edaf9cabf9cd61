//! The instances on this host: watched, started again when they end, their state and logs reported.
//!
//! Invariants: an instance runs until a job stops it or it breaks a limit, whether the control plane is there or not; what
//! a job is at work on is not touched; a state is offered until it was taken once. The engine's events call for a look;
//! where one is missed, the next look by the clock finds the same. A look waits for none of the engine's work on a container:
//! one that hangs holds up no other, and what is found is reported before anything is done about it.

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
    sync::{Notify, Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use wisehosting_containers::{Container, ContainerId, ContainerList, ContainerState, Engine, EngineError};
use wisehosting_domain::{id::InstanceId, state::ViolationKind};
use wisehosting_protocol::payload::{AppStatus, Violation};

/// How often to look when nothing calls for it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// For the program of an instance that broke a limit to end.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Before the engine is asked again to stop an instance that broke a limit.
const STOP_PAUSE: Duration = Duration::from_secs(2);
/// For the engine to start or stop a container.
const WORK_PATIENCE: Duration = Duration::from_secs(60);
/// Containers that the engine starts for us at the same time: all of them are due when a host has started. As many it stops
/// beside them.
const WORK_AT_ONCE: usize = 4;
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

impl Running {
    fn of(container: &Container) -> Option<Self> {
        let instance = host::instance_of(container)?;
        (container.state == ContainerState::Running).then(|| Self {
            instance,
            container: container.id.clone(),
            network_namespace: container.network_namespace.clone(),
            disk_limited: written::is_limited(container),
        })
    }
}

/// The instances on this host.
pub struct Instances<E> {
    host: Arc<Host<E>>,
    jobs: Jobs<E>,
    calls: Calls,
    /// None until the first look: what that finds was there before this program.
    running: watch::Sender<Option<Vec<Running>>>,
    known: BTreeMap<InstanceId, Known>,
    violations: Violations,
    evidence: Evidence,
    turns: Turns,
    engine_away: bool,
}

/// What tells that an instance has broken a limit, where the engine does not.
struct Evidence {
    memory_kills: MemoryKills,
    written: watch::Receiver<Written>,
}

/// Work of one kind waits for its turn behind work of the same kind only: a start that hangs must not keep an instance from
/// being stopped.
struct Turns {
    starts: Arc<Semaphore>,
    stops: Arc<Semaphore>,
}

/// What calls for something before it is time.
struct Calls {
    /// For a look.
    changed: Arc<Notify>,
    /// For a report of every state.
    report_all: Arc<Notify>,
    /// The connection on which that was called for last.
    reporting_on: Option<u64>,
}

/// What is known of one instance.
struct Known {
    restarts: Restarts,
    log: LogState,
    /// Whether its program was started again since its log began to be followed.
    log_grew: bool,
    /// What the engine does with it, or did last.
    work: Option<Work>,
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

/// What the engine does with a container.
enum Work {
    /// Of this container. Whether it could; none if it was not to any more.
    Start(ContainerId, JoinHandle<Option<bool>>),
    /// Whether it could shows in the container.
    Stop(JoinHandle<()>),
}

impl Known {
    /// Its program runs again.
    fn started(&mut self, now: Instant) {
        self.restarts.started(now);
        self.log_grew = true;
        if matches!(self.log, LogState::Sent) {
            self.log = LogState::Open;
        }
    }
}

impl Work {
    fn is_finished(&self) -> bool {
        match self {
            Self::Start(_, task) => task.is_finished(),
            Self::Stop(task) => task.is_finished(),
        }
    }
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
            calls: Calls { changed, report_all, reporting_on: None },
            running: watch::Sender::default(),
            known: BTreeMap::new(),
            violations,
            evidence: Evidence {
                memory_kills: MemoryKills::new(),
                written: watch::Sender::default().subscribe(),
            },
            turns: Turns {
                starts: Arc::new(Semaphore::new(WORK_AT_ONCE)),
                stops: Arc::new(Semaphore::new(WORK_AT_ONCE)),
            },
            engine_away: false,
        }
    }

    /// Those that run, as of the last look; none before the first.
    #[must_use]
    pub fn running(&self) -> watch::Receiver<Option<Vec<Running>>> {
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
        self.calls.reporting_on = self.host.connection();
        for known in self.known.values_mut() {
            known.tell_again = true;
        }
        self.violations.tell_again();
    }

    /// Looks at all instances, does what is due, and says when to look again.
    async fn look(&mut self) -> Instant {
        let mut next = Instant::now() + LOOK_EVERY;
        // Before the containers are looked at: what is still at work may not show in them.
        self.take_work().await;
        let Some(listed) = self.containers().await else { return next };
        // Of what is missing in a partial list nothing is known.
        let (is_whole, containers) = (listed.is_whole(), listed.known());
        let found: HashSet<InstanceId> = containers.iter().filter_map(host::instance_of).collect();
        if is_whole {
            self.violations.retain(&found);
        }
        self.violations.tell(&self.host.outbox);
        if self.host.settings.restart.trust_kernel {
            self.evidence.memory_kills.look(Instant::now(), &containers);
        }
        for container in &containers {
            let Some(instance) = host::instance_of(container) else { continue };
            self.follow(instance, container).await;
            if !self.jobs.is_busy(instance) {
                let due = self.attend(instance, container).await;
                next = due.map_or(next, |due| next.min(due));
            }
        }
        // After the reports: who counts those that run has heard of all that do not.
        self.running.send_replace(Some(containers.iter().filter_map(Running::of).collect()));
        if is_whole {
            self.forget_gone(&found);
        }
        if is_whole && self.all_are_named() {
            self.host.logs.named_on.send_replace(self.calls.reporting_on);
        }
        for container in containers.iter().filter(|one| one.state == ContainerState::Running) {
            let Some(instance) = host::instance_of(container) else { continue };
            self.limit_bandwidth(instance, container).await;
        }
        next
    }

    async fn containers(&mut self) -> Option<ContainerList> {
        let listed = timeout(WORK_PATIENCE, self.host.engine.containers(LABEL_INSTANCE)).await;
        match listed.map_err(Box::<dyn Error + Send + Sync>::from).and_then(|listed| Ok(listed?)) {
            Ok(containers) => {
                self.engine_away = false;
                Some(containers)
            }
            Err(error) => {
                if !self.engine_away {
                    tracing::error!(
                        error = &*error as &dyn Error,
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
            log_grew: false,
            work: None,
            down_since: None,
            reported: None,
            tell_again: false,
            unlimited: false,
        })
    }

    /// Whether the control plane was told of each instance since it was last to be told of all. What a job is at work on,
    /// that job's result tells.
    fn all_are_named(&self) -> bool {
        let mut untold = self.known.iter().filter(|(_, known)| known.reported.is_none() || known.tell_again);
        untold.all(|(instance, _)| self.jobs.is_busy(*instance))
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
            let whole = follower.await.unwrap_or(false) && !known.log_grew;
            known.log = if whole { LogState::Sent } else { LogState::Open };
        }
        let wanted = match container.state {
            ContainerState::Running => true,
            ContainerState::Exited { .. } => matches!(known.log, LogState::Open),
            ContainerState::Created => false,
        };
        if wanted {
            let id = container.id.clone();
            known.log_grew = false;
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
        let (exit_code, out_of_memory) = match container.state {
            ContainerState::Running => {
                let known = self.known(instance);
                known.down_since = None;
                if known.work.is_none() && known.restarts.is_due() {
                    // Somebody else has started it, or the engine did when nobody waited for that any more.
                    known.started(now);
                }
                let condition = Condition { running: true, exit_code: None, stopped: false };
                self.report(instance, condition);
                if self.violations.holds(instance) {
                    self.stop(instance, container);
                }
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
        let step = known.work.is_none().then(|| known.restarts.ended(&policy, out_of_memory, now));
        if let Some(Step::Keep(kind)) = step
            && !self.violations.holds(instance)
        {
            self.keep_from_running(instance, kind, exit_code);
        }
        let held = self.violations.holds(instance);
        // One that waits for its turn to be started is on its way.
        let stopped = held || (now >= stopped_at && self.known(instance).work.is_none());
        self.report(instance, Condition { running: false, exit_code, stopped });
        if held {
            return None;
        }
        let mut due = [Some(stopped_at), None];
        if let Some(Step::StartAt(at)) = step {
            // What is found at the start of this program has been down for long enough.
            if at <= now || self.running.borrow().is_none() {
                self.start_again(instance, container);
            } else {
                due[1] = Some(at);
            }
        }
        due.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Takes note of what the engine was asked to do, where that has ended.
    async fn take_work(&mut self) {
        let (policy, now) = (self.host.settings.restart, Instant::now());
        for known in self.known.values_mut() {
            let Some(Work::Start(id, task)) = known.work.take_if(|work| work.is_finished()) else { continue };
            match task.await {
                Ok(Some(true)) => {
                    known.started(now);
                    self.evidence.memory_kills.forget(&id);
                }
                Ok(Some(false)) => known.restarts.not_started(&policy, now),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Stops an instance that broke a limit while it runs, unless the engine is still at something with it.
    fn stop(&mut self, instance: InstanceId, container: &Container) {
        if self.known(instance).work.is_some() {
            return;
        }
        let (host, id) = (self.host.clone(), container.id.clone());
        let stop = async move {
            let stopped = host.engine.stop(&id, STOP_GRACE).await;
            if stopped.is_err() {
                sleep(STOP_PAUSE).await;
            }
            stopped
        };
        let failure = "an instance that broke a limit cannot be stopped yet";
        let work = self.work(instance, self.turns.stops.clone(), failure, stop);
        self.known(instance).work = Some(Work::Stop(tokio::spawn(async {
            work.await;
        })));
    }

    /// Starts the container of an instance that has ended, unless the engine is still at something with it.
    fn start_again(&mut self, instance: InstanceId, container: &Container) {
        if self.known(instance).work.is_some() {
            return;
        }
        let (host, id, state) = (self.host.clone(), container.id.clone(), container.state);
        let start = async move {
            tracing::warn!(instance.id = %instance, ?state, "an instance ended; starting it again");
            host.engine.start(&id).await
        };
        let work =
            self.work(instance, self.turns.starts.clone(), "an instance cannot be started again", start);
        self.known(instance).work = Some(Work::Start(container.id.clone(), tokio::spawn(work)));
    }

    /// Has the engine do something with an instance when it is its turn; whether it could, or none if a job is at work on
    /// the instance then.
    fn work(
        &self,
        instance: InstanceId,
        turns: Arc<Semaphore>,
        failure: &'static str,
        work: impl Future<Output = Result<(), EngineError>> + Send + 'static,
    ) -> impl Future<Output = Option<bool>> + Send + 'static {
        let (changed, jobs) = (self.calls.changed.clone(), self.jobs.clone());
        async move {
            // Never closed.
            let _turn = turns.acquire().await;
            // It may have waited for a while.
            if jobs.is_busy(instance) {
                return None;
            }
            let done = match timeout(WORK_PATIENCE, work).await {
                Ok(done) => done.map_err(Box::<dyn Error + Send + Sync>::from),
                Err(late) => Err(late.into()),
            };
            if let Err(error) = &done {
                tracing::error!(instance.id = %instance, error = &**error as &dyn Error, "{failure}");
            }
            changed.notify_one();
            Some(done.is_ok())
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
        if let Some(Work::Start(_, start)) = &self.known(instance_id).work {
            start.abort();
        }
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

    /// Reports instances whose container somebody else has removed, and forgets them.
    fn forget_gone(&mut self, found: &HashSet<InstanceId>) {
        let gone: Vec<InstanceId> = self.known.keys().filter(|id| !found.contains(id)).copied().collect();
        for instance in gone {
            let gone = Condition { running: false, exit_code: None, stopped: true };
            if !self.jobs.is_busy(instance) && self.known(instance).reported.is_some() {
                self.report(instance, gone);
                if self.known(instance).reported != Some(gone) {
                    continue; // There was no room: at the next look.
                }
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
