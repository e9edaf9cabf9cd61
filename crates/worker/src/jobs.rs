//! The jobs of a worker: jobs of one app in the order in which they came, jobs of different apps side by side. A stop
//! waits for nobody but a job at work on the same instance, and nobody waits for it: a program that ignores its end
//! must not hold up the next deploy.
//!
//! Invariants: every job that was taken ends in exactly one result, also after a crash; a result is kept and offered
//! until the control plane has stored it; a job that comes twice is done once.

use crate::{
    collect::{collect, collect_all},
    deploy::Attempt,
    host::Host,
    journal::{Journal, JournalError, Taken},
    space,
    stop::{delete, stop},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use wisehosting_containers::{Engine, EngineError};
use wisehosting_domain::id::{AppId, InstanceId, JobId};
use wisehosting_protocol::payload::{Deploy, Job, JobRef, JobResult, MESSAGE_CHARS_MAX, Outcome, Work};

/// The jobs of a worker. Clones are the same jobs.
pub struct Jobs<E>(Arc<Inner<E>>);

impl<E> Clone for Jobs<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<E> {
    host: Arc<Host<E>>,
    journal: Journal,
    state: Mutex<State>,
    /// Told whenever an instance may have changed.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// Jobs that wait. A line that is here has a task that works on its jobs.
    queues: HashMap<Line, VecDeque<Job>>,
    /// Jobs that were taken and have no result yet.
    active: BTreeMap<JobId, Active>,
    /// Results that the control plane has not stored yet.
    results: BTreeMap<JobId, JobResult>,
}

/// What stands in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Line {
    /// What changes an app.
    App(AppId),
    /// The end of one instance.
    Instance(InstanceId),
}

struct Active {
    instance_id: InstanceId,
    cancel: CancellationToken,
}

impl<E: Engine> Jobs<E> {
    /// The jobs of this host, with the results that an earlier run has left. `changed` is told whenever an instance may
    /// have changed.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn new(host: Arc<Host<E>>, journal: Journal, changed: Arc<Notify>) -> Result<Self, JournalError> {
        let results: BTreeMap<JobId, JobResult> =
            journal.results()?.into_iter().map(|result| (result.job_id, result)).collect();
        for log in journal.logs(|job| results.contains_key(&job))? {
            host.logs.builds.restore(log);
        }
        let state = Mutex::new(State { results, ..State::default() });
        Ok(Self(Arc::new(Inner { host, journal, state, changed })))
    }

    /// Ends the programs that builds of an earlier run have left behind.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn end_builds(&self) -> Result<(), JournalError> {
        let cut_off = self.0.journal.taken()?.into_iter().filter(|taken| taken.redo.is_none());
        cut_off.for_each(|taken| self.0.host.engine.end_build(&taken.job_id.to_string()));
        Ok(())
    }

    /// Ends what an earlier run has begun: a stop or a delete is done again, a deploy is undone and has failed. To be called before
    /// any job is taken. What the engine refuses to remove is left: it must not keep this host from all other work.
    ///
    /// # Errors
    /// The engine is away; call it again. Or the journal cannot be read.
    pub async fn recover(&self) -> Result<(), RecoverError> {
        match collect_all(&self.0.host).await {
            Err(error) if error.is_away() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "images that are not needed are left");
            }
            Ok(()) => {}
        }
        for taken in self.0.journal.taken()? {
            if self.is_known(taken.job_id) {
                continue;
            }
            if let Some(work) = taken.redo {
                let Taken { job_id, app_id, app, instance_id, .. } = taken;
                self.enqueue(Job { job_id, app_id, app, instance_id, work });
            } else {
                self.0.clear_up(&taken).await?;
                let message = "The worker was restarted during the deploy. Deploy again.".to_owned();
                self.0.clone().finish(taken.job_id, taken.instance_id, Outcome::Failed { message }).await;
            }
        }
        Ok(())
    }

    /// Takes a job, unless it was taken before. Jobs are submitted one after the other.
    pub async fn submit(&self, job: Job) {
        let job_id = job.job_id;
        let result = self.0.state().results.get(&job_id).cloned();
        if let Some(result) = result {
            self.0.offer(result);
            return;
        }
        if !self.is_known(job_id) {
            if let Err(error) = self.0.take(&job).await {
                tracing::error!(job.id = %job_id, error = &error as &dyn Error, "a job cannot be taken");
                self.refuse(&job).await;
                return;
            }
            self.enqueue(job);
        }
        self.0.host.outbox.offer(JobRef { job_id });
    }

    /// Says at once that a deploy cannot be done. A stop or a delete must be done one day: without an acknowledgement the
    /// control plane sends it again.
    async fn refuse(&self, job: &Job) {
        if matches!(job.work, Work::Deploy(_)) {
            let message = "The worker cannot write to its own disk. Its operator finds the cause in its log."
                .to_owned();
            self.0.clone().finish(job.job_id, job.instance_id, Outcome::Failed { message }).await;
        }
    }

    /// Calls a job off. One that has ended keeps its result.
    pub fn cancel(&self, job_id: JobId) {
        if let Some(active) = self.0.state().active.get(&job_id) {
            active.cancel.cancel();
        }
    }

    /// The control plane has stored the result of a job. [`Self::forget`] it, too.
    pub fn acknowledge(&self, job_id: JobId) {
        self.0.state().results.remove(&job_id);
        self.0.host.logs.builds.forget(job_id);
    }

    /// Keeps nothing on disk of a job whose result the control plane has.
    pub async fn forget(&self, job_id: JobId) {
        let jobs = self.0.clone();
        let forget = move || {
            if let Err(error) = jobs.journal.forget(job_id) {
                tracing::warn!(job.id = %job_id, error = &error as &dyn Error, "a stored result is sent again later");
            }
        };
        self.0.host.outside.write(Box::new(forget)).await;
    }

    /// Offers all results that the control plane has not stored.
    pub fn offer_results(&self) {
        let results: Vec<JobResult> = self.0.state().results.values().cloned().collect();
        for result in results {
            self.0.offer(result);
        }
    }

    /// Jobs that the control plane must not give up: those without a result, and those whose results it has not stored. With
    /// its log in front, a result may be on its way for longer than a lease.
    #[must_use]
    pub fn unsettled(&self) -> Vec<JobId> {
        let state = self.0.state();
        state.active.keys().chain(state.results.keys()).copied().collect()
    }

    /// Whether a job is at work on an instance, which nobody else must touch then.
    #[must_use]
    pub fn is_busy(&self, instance_id: InstanceId) -> bool {
        self.0.state().active.values().any(|active| active.instance_id == instance_id)
    }

    fn is_known(&self, job_id: JobId) -> bool {
        let state = self.0.state();
        state.active.contains_key(&job_id) || state.results.contains_key(&job_id)
    }

    fn enqueue(&self, job: Job) {
        let mut state = self.0.state();
        let is_alone = state.active.values().all(|active| active.instance_id != job.instance_id);
        let line = match job.work {
            Work::Stop(_) if is_alone => Line::Instance(job.instance_id),
            _ => Line::App(job.app_id),
        };
        let active = Active { instance_id: job.instance_id, cancel: CancellationToken::new() };
        state.active.insert(job.job_id, active);
        if let Some(queue) = state.queues.get_mut(&line) {
            queue.push_back(job);
        } else {
            state.queues.insert(line, VecDeque::from([job]));
            tokio::spawn(self.0.clone().work_on(line));
        }
    }
}

/// Why the jobs of an earlier run could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The engine did not do its part.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// They are not readable.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl<E: Engine> Inner<E> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stop or a delete frees room, and must not fail for want of it: when it is written down, and when it is done.
    fn give_way_to(&self, job: &Job) {
        if !matches!(job.work, Work::Deploy(_)) {
            space::give_way(&self.host);
        }
    }

    /// Writes down that a job was taken.
    async fn take(self: &Arc<Self>, job: &Job) -> Result<(), JournalError> {
        let (told, taken) = oneshot::channel();
        let (jobs, job) = (self.clone(), job.clone());
        let take = move || {
            jobs.give_way_to(&job);
            // Whoever has asked waits for it.
            let _ = told.send(jobs.journal.take(&job));
        };
        self.host.outside.write(Box::new(take)).await;
        taken.await.unwrap_or_else(|_| Err(self.journal.cut_off()))
    }

    /// Does the jobs of one line until there are none.
    async fn work_on(self: Arc<Self>, line: Line) {
        while let Some(job) = self.next(line) {
            let (job_id, instance_id) = (job.job_id, job.instance_id);
            let is_deploy = matches!(job.work, Work::Deploy(_));
            // A task of its own, so that a fault in one job is the end of that job only.
            let outcome = match tokio::spawn(self.clone().work(job)).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::error!(job.id = %job_id, %error, "a job ended by a fault of the worker");
                    if is_deploy && let Err(error) = self.clear(job_id, instance_id).await {
                        tracing::warn!(job.id = %job_id, error = &error as &dyn Error, "parts of a failed deploy are left behind");
                    }
                    let message = "The worker failed by a fault of its own. Deploy again.".to_owned();
                    Outcome::Failed { message }
                }
            };
            self.clone().finish(job_id, instance_id, outcome).await;
        }
    }

    /// Removes what a deploy has made that did not come to its own end.
    async fn clear(&self, job_id: JobId, instance_id: InstanceId) -> Result<(), EngineError> {
        self.host.engine.end_build(&job_id.to_string());
        self.host.undo_deploy(job_id, instance_id).await
    }

    /// Does so after a restart. Only an engine that is away is waited for.
    async fn clear_up(&self, taken: &Taken) -> Result<(), EngineError> {
        let mut cleared = self.clear(taken.job_id, taken.instance_id).await;
        if cleared.as_ref().is_err_and(|error| !error.is_away()) {
            // It may be for want of it.
            let _ = space::make_room(&self.host).await;
            cleared = self.clear(taken.job_id, taken.instance_id).await;
        }
        match cleared {
            Err(error) if !error.is_away() => {
                tracing::warn!(
                    job.id = %taken.job_id, instance.id = %taken.instance_id, error = &error as &dyn Error,
                    "parts of a failed deploy are left behind"
                );
                Ok(())
            }
            cleared => cleared,
        }
    }

    fn next(&self, line: Line) -> Option<Job> {
        let mut state = self.state();
        let job = state.queues.get_mut(&line).and_then(VecDeque::pop_front);
        if job.is_none() {
            state.queues.remove(&line);
        }
        job
    }

    async fn work(self: Arc<Self>, job: Job) -> Outcome {
        let cancel = self.state().active.get(&job.job_id).map(|active| active.cancel.clone());
        let cancel = cancel.unwrap_or_default();
        tracing::info!(job.id = %job.job_id, app.name = %job.app, job.kind = %job.work.kind(), "a job begins");
        self.give_way_to(&job);
        match &job.work {
            Work::Deploy(deploy) => self.deploy(&job, deploy, &cancel).await,
            Work::Stop(how) => match stop(&self.host, job.instance_id, *how).await {
                Ok(()) => Outcome::Stopped,
                Err(error) => failed(&job, &error),
            },
            Work::Delete => match delete(&self.host, job.app_id).await {
                Ok(()) => Outcome::Deleted,
                Err(error) => failed(&job, &error),
            },
        }
    }

    async fn deploy(&self, job: &Job, deploy: &Deploy, cancel: &CancellationToken) -> Outcome {
        let _deploying = self.host.begin_deploy(job.app_id);
        let attempt = Attempt::new(&self.host, job, deploy);
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Outcome::Cancelled,
            ended = attempt.run() => ended.unwrap_or_else(|error| failed(job, &error)),
            error = attempt.overdue() => failed(job, &error),
        };
        let last_words = match &outcome {
            Outcome::Deployed { .. } => None,
            Outcome::Failed { message } => Some(message.as_str()),
            Outcome::Cancelled | Outcome::Stopped | Outcome::Deleted => Some("Cancelled"),
        };
        if last_words.is_some() {
            space::give_way(&self.host);
            attempt.undo().await;
        }
        attempt.close(last_words).await;
        if let Err(error) = collect(&self.host, job.app_id).await {
            tracing::warn!(app.name = %job.app, error = &error as &dyn Error, "images that are not needed are left");
        }
        outcome
    }

    /// Offers a result behind the log of its job, on the same connection. One that finds no room is offered again later.
    fn offer(&self, result: JobResult) {
        if let Some(connection) = self.host.logs.builds.offer(result.job_id) {
            self.host.outbox.offer_on(connection, result);
        }
    }

    async fn finish(self: Arc<Self>, job_id: JobId, instance_id: InstanceId, outcome: Outcome) {
        let result = JobResult { job_id, instance_id, outcome, observed_at_ms: self.host.clock.now_ms() };
        let (jobs, written) = (self.clone(), result.clone());
        self.host.outside.write(Box::new(move || jobs.write_down(&written))).await;
        {
            let mut state = self.state();
            state.active.remove(&job_id);
            state.results.insert(job_id, result.clone());
        }
        self.offer(result);
        self.changed.notify_one();
    }

    /// Writes down how a job ended, and first what it has said.
    fn write_down(&self, result: &JobResult) {
        let job_id = result.job_id;
        let log = self.host.logs.builds.written(job_id);
        if let Some(Err(error)) = log.map(|log| self.journal.keep_log(&log)) {
            tracing::warn!(job.id = %job_id, error = &error as &dyn Error, "a log would not outlive a crash");
        }
        if let Err(error) = self.journal.finish(result) {
            tracing::error!(job.id = %job_id, error = &error as &dyn Error, "a result would not outlive a crash");
        }
    }
}

/// The one place where a failure is logged: with its causes for the operator, as one sentence for the app's owner.
fn failed(job: &Job, error: &(dyn Error + 'static)) -> Outcome {
    tracing::warn!(job.id = %job.job_id, app.name = %job.app, error, "a job failed");
    // It may quote a whole step of a Dockerfile.
    Outcome::Failed { message: error.to_string().chars().take(MESSAGE_CHARS_MAX).collect() }
}
