//! What a worker says: which jobs it has and how far they are, what its instances do and write.
//!
//! A worker speaks for its own jobs and instances only; what it says of others is dropped.

use std::collections::BTreeSet;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wisehosting_domain::{
    id::JobId,
    name::Label,
    state::{InstanceState, JobState},
};
use wisehosting_protocol::{
    message::{AgentMessage, JobCancel},
    payload::{
        AppStatus, BuildLog, Heartbeat, JobRef, JobStatus, LogLine, Register, RuntimeLog, RuntimeLogAck,
        Stream, Violation,
    },
};
use wisehosting_store::{
    StoreError, build_log, deployment_state,
    instances::{self, Observation},
    jobs::{self, Job},
    pool,
    runtime_log::{self, NewLine},
    violations,
    workers::{self, Share},
};

use super::{Membership, conversation::Unhandled, job, job_result, roll_call::RollCall};
use crate::{logs, scheduler::leases, state::AppState};

/// The messages of one worker's connection.
pub(super) struct WorkerAgent {
    state: AppState,
    membership: Membership,
    /// When it last said that it is alive.
    heard_at: OffsetDateTime,
    /// From when it has registered until it has had the time to name all that it has.
    roll_call: Option<RollCall>,
}

impl WorkerAgent {
    pub(super) fn new(state: AppState, membership: Membership) -> Self {
        let heard_at = state.clock.now();
        Self { state, membership, heard_at, roll_call: None }
    }

    pub(super) async fn handle(&mut self, message: &AgentMessage) -> Result<(), Unhandled> {
        match message {
            AgentMessage::Register(register) => self.register(register).await?,
            AgentMessage::Heartbeat(heartbeat) => self.heartbeat(heartbeat).await?,
            AgentMessage::JobAck(job) => self.job_ack(job.job_id).await?,
            AgentMessage::JobStatus(status) => self.job_status(status).await?,
            AgentMessage::JobResult(result) => {
                let (ack, is_news) = job_result::store(&self.state, self.name(), result).await?;
                if let Some(roll_call) = self.roll_call.as_mut().filter(|_| is_news) {
                    roll_call.begin_again(result.instance_id);
                }
                self.membership.send(ack).await;
            }
            AgentMessage::AppStatus(status) => {
                if let Some(roll_call) = &mut self.roll_call {
                    roll_call.name(status.instance_id, status.running);
                }
                self.app_status(status).await?;
            }
            AgentMessage::Violation(violation) => self.violation(violation).await?,
            AgentMessage::RuntimeLog(log) => self.runtime_log(log).await?,
            AgentMessage::BuildLog(log) => self.build_log(log).await?,
            AgentMessage::AppStats(stats) => {
                self.state.hub.stats().told(self.name(), stats, self.state.clock.now());
            }
            AgentMessage::MeshStatus(status) => {
                let (name, now) = (&self.membership.node.name, self.state.clock.now());
                self.state.hub.mesh().told(name, status.clone(), now);
            }
            AgentMessage::Error(error) => {
                tracing::warn!(worker.name = %self.name(), message = error.message, "a worker reports");
            }
            AgentMessage::RoutesAck(_)
            | AgentMessage::RoutesDrained(_)
            | AgentMessage::Certificate(_)
            | AgentMessage::CertificateGet(_)
            | AgentMessage::CertificateOrder(_)
            | AgentMessage::ChallengesShown(_) => return Err(Unhandled::WrongRole),
        }
        Ok(())
    }

    fn name(&self) -> &Label {
        &self.membership.node.name
    }

    /// The worker is back: whatever it should do and does not know of is sent again, whatever it should not do is
    /// called off.
    async fn register(&mut self, register: &Register) -> Result<(), StoreError> {
        let now = self.state.clock.now();
        self.heard_at = now;
        let mut connection = pool::acquire(&self.state.pool).await?;
        let capacity = self.capacity(register);
        workers::connected(&mut connection, self.name(), &register.version, capacity, now).await?;
        self.state.hub.stats().registered(self.name(), capacity);
        let listed: BTreeSet<JobId> = register.running_jobs.iter().copied().collect();
        let running = jobs::running_on(&mut connection, self.name()).await?;
        // What is sent again has its time from now, too.
        let unacked = running.iter().filter(|job| !job.run.acked).map(|job| job.id);
        let held: Vec<JobId> = listed.iter().copied().chain(unacked).collect();
        workers::heartbeat(&mut connection, self.name(), &held, now, now + leases::LEASE).await?;
        let given = instances::given_to(&mut connection, self.name()).await?;
        drop(connection);
        self.roll_call = Some(RollCall::begin(given));
        for job in &running {
            self.resume(job, listed.contains(&job.id), now).await?;
        }
        let known: BTreeSet<JobId> = running.iter().map(|job| job.id).collect();
        for job_id in listed.difference(&known) {
            self.membership.send(JobCancel(JobRef { job_id: *job_id })).await;
        }
        self.state.signals.jobs.notify_one();
        Ok(())
    }

    async fn resume(&self, job: &Job, listed: bool, now: OffsetDateTime) -> Result<(), StoreError> {
        let unknown_to_worker = !listed && !job.run.acked;
        if unknown_to_worker {
            match job::message(job, &self.state.secrets.keys) {
                Ok(Some(message)) => self.membership.send(message).await,
                Ok(None) => {}
                Err(unreadable) => self.give_up(job, &unreadable, now).await?,
            }
        }
        if job.run.cancel_requested {
            self.membership.send(JobCancel(JobRef { job_id: job.id })).await;
        }
        Ok(())
    }

    /// The worker does not have the job and never will.
    async fn give_up(&self, job: &Job, why: &job::Unreadable, now: OffsetDateTime) -> Result<(), StoreError> {
        let mut transaction = pool::begin(&self.state.pool).await?;
        let locked = jobs::lock(&mut transaction, self.name(), job.id).await?;
        if let Some(job) = locked.filter(|job| job.state == JobState::Running) {
            job_result::fail(&mut transaction, &job, &why.to_string(), now).await?;
        }
        pool::commit(transaction).await
    }

    /// What the configuration says it has, or else what it says itself.
    fn capacity(&self, register: &Register) -> Share {
        let declared = self.state.config.workers.iter().find(|worker| worker.name == *self.name());
        let said = register.capacity;
        let memory = declared.and_then(|worker| worker.memory_bytes).or(said.map(|said| said.memory_bytes));
        let cpu = declared.and_then(|worker| worker.cpu_millis).or(said.map(|said| said.cpu_millis));
        Share { memory_bytes: memory.unwrap_or_default(), cpu_millis: cpu.unwrap_or_default() }
    }

    async fn heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let now = self.state.clock.now();
        self.state.hub.stats().heartbeat(self.name(), heartbeat, now);
        let mut connection = pool::acquire(&self.state.pool).await?;
        let lease = now + leases::LEASE;
        workers::heartbeat(&mut connection, self.name(), &heartbeat.running_jobs, now, lease).await?;
        drop(connection);
        if now - self.heard_at > leases::SILENCE_MAX {
            // Jobs may have waited for it.
            self.state.signals.jobs.notify_one();
        }
        self.heard_at = now;
        self.end_roll_call(heartbeat.instances).await
    }

    /// What the worker has not named by now is gone.
    async fn end_roll_call(&mut self, running: Option<u32>) -> Result<(), StoreError> {
        let Some(roll_call) = &mut self.roll_call else { return Ok(()) };
        if !roll_call.heartbeat(running) {
            return Ok(());
        }
        let mut connection = pool::acquire(&self.state.pool).await?;
        let mut gone = instances::serving_on(&mut connection, &self.membership.node.name).await?;
        drop(connection);
        gone.retain(|id| roll_call.misses(*id));
        for instance_id in gone {
            tracing::warn!(worker.name = %self.name(), instance.id = %instance_id, "an instance is gone from its worker");
            let observed_at_ms = self.state.clock.now_ms();
            let gone =
                AppStatus { instance_id, running: false, exit_code: None, stopped: true, observed_at_ms };
            self.app_status(&gone).await?;
        }
        self.roll_call = None;
        Ok(())
    }

    async fn job_ack(&self, id: JobId) -> Result<(), StoreError> {
        let mut connection = pool::acquire(&self.state.pool).await?;
        jobs::acked(&mut connection, self.name(), id, self.state.clock.now()).await
    }

    async fn job_status(&self, status: &JobStatus) -> Result<(), StoreError> {
        if !status.state.is_with_worker() {
            return Ok(());
        }
        let mut transaction = pool::begin(&self.state.pool).await?;
        let job = jobs::lock(&mut transaction, self.name(), status.job_id).await?;
        if let Some(job) = job.filter(|job| job.state == JobState::Running) {
            let now = self.state.clock.now();
            let deadline = now + leases::DEPLOY_MAX + leases::DEPLOY_GRACE;
            jobs::must_end(&mut transaction, job.id, deadline).await?;
            deployment_state::advance(&mut transaction, job.deployment_id, status.state, now).await?;
        }
        pool::commit(transaction).await
    }

    async fn app_status(&self, status: &AppStatus) -> Result<(), StoreError> {
        let (now, instance_id) = (self.state.clock.now(), status.instance_id);
        let seen = Observation {
            running: status.running,
            exit_code: status.exit_code,
            stopped: status.stopped,
            observed_at: time_of(status.observed_at_ms),
        };
        let has_container = status.running || status.exit_code.is_some();
        let Some(turn) = logs::Turn::take(&self.state, self.name(), instance_id).await? else {
            if has_container {
                tracing::warn!(worker.name = %self.name(), instance.id = %instance_id, "an instance of a removed app is there: stopping it");
                self.membership.send(job::stop_unknown(instance_id)).await;
            }
            return Ok(());
        };
        let mut transaction = pool::begin(&self.state.pool).await?;
        let before = instances::observe(&mut transaction, self.name(), instance_id, seen).await?;
        // Left behind by a deploy that failed, or made by an engine that went on with what nobody waited for any more: its
        // worker keeps it until it is told to stop it.
        let has_ended = |before: instances::Before| {
            matches!(before.state, InstanceState::Failed | InstanceState::Stopped)
        };
        if has_container && before.is_some_and(has_ended) {
            job_result::stop_orphan(&mut transaction, instance_id, now).await?;
        }
        // One that is being stopped, or never served, has not fallen.
        let fell =
            before.is_some_and(|was| status.stopped && !was.stopped && was.state == InstanceState::Healthy);
        // Nothing is there that could run again.
        let lost = fell && status.exit_code.is_none();
        if lost {
            instances::lost(&mut transaction, instance_id, now).await?;
        }
        let line = fell.then(|| {
            let text = match status.exit_code {
                Some(code) => format!("The program has ended with exit status {code} and does not run"),
                None => "The container is gone or cannot be started: the app is deployed again".to_owned(),
            };
            NewLine { at: seen.observed_at, stream: runtime_log::Stream::System, text }
        });
        turn.store(transaction, instance_id, line.into_iter().collect()).await?;
        if lost {
            self.state.signals.rollout.notify_one();
        }
        Ok(())
    }

    async fn violation(&mut self, violation: &Violation) -> Result<(), StoreError> {
        let Violation { instance_id, kind, message, observed_at_ms } = violation;
        let (message, observed_at) = (job_result::shortened(message), time_of(*observed_at_ms));
        let Some(turn) = logs::Turn::take(&self.state, self.name(), *instance_id).await? else {
            return Ok(());
        };
        let mut transaction = pool::begin(&self.state.pool).await?;
        let stored = violations::Violation { kind: *kind, message: message.clone(), observed_at };
        let news = violations::store(&mut transaction, self.name(), *instance_id, &stored).await?;
        let line = NewLine { at: observed_at, stream: runtime_log::Stream::System, text: message };
        turn.store(transaction, *instance_id, news.then_some(line).into_iter().collect()).await?;
        if news {
            tracing::warn!(
                worker.name = %self.name(), instance.id = %instance_id, violation.kind = %kind, "an instance broke a limit"
            );
        }
        Ok(())
    }

    async fn runtime_log(&self, log: &RuntimeLog) -> Result<(), StoreError> {
        let cursor = logs::take(&self.state, self.name(), log).await?;
        self.membership.send(RuntimeLogAck { instance_id: log.instance_id, cursor }).await;
        Ok(())
    }

    async fn build_log(&self, log: &BuildLog) -> Result<(), StoreError> {
        let now = self.state.clock.now();
        // A worker may name any number.
        let number = |place: usize| log.first_line.saturating_add(place as u64);
        let numbered = log.lines.iter().enumerate();
        let lines: Vec<build_log::Line> =
            numbered.map(|(place, line)| stored(number(place), line, now)).collect();
        let mut connection = pool::acquire(&self.state.pool).await?;
        build_log::append(&mut connection, self.name(), log.deployment_id, &lines).await.map(|_| ())
    }
}

fn stored(number: u64, line: &LogLine, now: OffsetDateTime) -> build_log::Line {
    let stream = match line.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::System => "system",
    };
    build_log::Line {
        number,
        at: OffsetDateTime::parse(&line.at, &Rfc3339).unwrap_or(now),
        stream: stream.to_owned(),
        text: line.text.clone(),
    }
}

/// The time that many milliseconds after the Unix epoch; the last that can be written for a nonsense.
fn time_of(ms: u64) -> OffsetDateTime {
    const LAST_S: i64 = 253_402_300_799;
    let seconds = i64::try_from(ms / 1_000).unwrap_or(LAST_S).min(LAST_S);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time + std::time::Duration::from_millis(ms % 1_000)
}
