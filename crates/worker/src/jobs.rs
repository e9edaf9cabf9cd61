//! The jobs of a worker: jobs of one app in the order in which they came, jobs of different apps side by side. A stop
//! waits for nobody but a job at work on the same instance, and nobody waits for it: a program that ignores its end
//! must not hold up the next deploy.
//!
//! Invariants: every job that was taken ends in exactly one result, also after a crash; a result is kept and offered
//! until the control plane has stored it; a job that comes twice is done once; an engine that hangs on one container holds
//! back neither the result of a deploy nor the other jobs of its app for long.

use crate::{
    collect::{collect, collect_idle},
    deploy::Attempt,
    host::{Host, LABEL_INSTANCE},
    journal::{Journal, JournalError, Taken},
    space,
    stop::{delete, stop},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use wisehosting_containers::{Engine, EngineError};
use wisehosting_domain::id::{AppId, InstanceId, JobId};
use wisehosting_protocol::payload::{Deploy, Job, JobRef, JobResult, MESSAGE_CHARS_MAX, Outcome, Work};

/// For the engine to remove what a deploy has made before its result is told. The control plane gives a deploy up a minute
/// after its deadline.
const UNDO_PATIENCE: Duration = Duration::from_secs(30);
/// Before it is asked for that again.
const UNDO_PAUSE: Duration = Duration::from_secs(30);
/// For images to be removed before the first job is taken.
const COLLECT_PATIENCE: Duration = Duration::from_secs(5);

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
    /// What waits. A line that is here has a task that works on it.
    queues: HashMap<Line, VecDeque<Due>>,
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

/// What is to be done about a job.
enum Due {
    /// The job.
    Do(Job),
    /// It is a deploy that an earlier run was cut off in.
    End(Taken),
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

    /// Begins to end what an earlier run has begun: a stop or a delete is done again, a deploy is undone and has failed. To be called before
    /// any job is taken. What the engine refuses to remove, or is at work on, must not keep this host from all other work.
    ///
    /// # Errors
    /// The engine is away; call it again. Or the journal cannot be read.
    pub async fn recover(&self) -> Result<(), RecoverError> {
        match self.0.host.engine.containers(LABEL_INSTANCE).await {
            Err(error) if error.is_away() => return Err(error.into()),
            // Whether it can do a job, that job tells.
            Ok(_) | Err(_) => {}
        }
        let host = self.0.host.clone();
        let collecting = tokio::spawn(async move { space::remove("images", collect_idle(&host)).await });
        // It goes on beside jobs.
        let _ = timeout(COLLECT_PATIENCE, collecting).await;
        let mut taken = self.0.journal.taken()?;
        taken.retain(|taken| !self.is_known(taken.job_id));
        // In this order: a stop of the same instance stands behind it.
        let (again, cut_off): (Vec<Taken>, _) = taken.into_iter().partition(|taken| taken.redo.is_some());
        for taken in cut_off {
            self.line_up(taken.job_id, taken.instance_id, Line::App(taken.app_id), Due::End(taken));
        }
        for taken in again {
            let Taken { job_id, app_id, app, instance_id, redo } = taken;
            if let Some(work) = redo {
                self.enqueue(Job { job_id, app_id, app, instance_id, work });
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
        let line = match job.work {
            Work::Stop(_) if !self.is_busy(job.instance_id) => Line::Instance(job.instance_id),
            _ => Line::App(job.app_id),
        };
        self.line_up(job.job_id, job.instance_id, line, Due::Do(job));
    }

    fn line_up(&self, job_id: JobId, instance_id: InstanceId, line: Line, due: Due) {
        let mut state = self.0.state();
        state.active.insert(job_id, Active { instance_id, cancel: CancellationToken::new() });
        if let Some(queue) = state.queues.get_mut(&line) {
            queue.push_back(due);
        } else {
            state.queues.insert(line, VecDeque::from([due]));
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

    /// Does what is due in one line until there is nothing.
    async fn work_on(self: Arc<Self>, line: Line) {
        while let Some(due) = self.next(line) {
            match due {
                Due::Do(job) => self.clone().do_to_its_end(job).await,
                Due::End(taken) => self.clone().end_cut_off(&taken).await,
            }
        }
    }

    async fn do_to_its_end(self: Arc<Self>, job: Job) {
        let (job_id, app_id, instance_id) = (job.job_id, job.app_id, job.instance_id);
        let is_deploy = matches!(job.work, Work::Deploy(_));
        // A task of its own, so that a fault in one job is the end of that job only.
        let outcome = match tokio::spawn(self.clone().work(job)).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(job.id = %job_id, %error, "a job ended by a fault of the worker");
                if is_deploy {
                    self.undo(job_id, instance_id).await;
                }
                let message = "The worker failed by a fault of its own. Deploy again.".to_owned();
                Outcome::Failed { message }
            }
        };
        self.clone().finish(job_id, instance_id, outcome).await;
        if is_deploy {
            // Nobody waits for it but the next job of the app.
            space::remove("images", collect(&self.host, app_id)).await;
        }
    }

    /// Ends a deploy that an earlier run was cut off in.
    async fn end_cut_off(self: Arc<Self>, taken: &Taken) {
        self.undo(taken.job_id, taken.instance_id).await;
        let message = "The worker was restarted during the deploy. Deploy again.".to_owned();
        self.finish(taken.job_id, taken.instance_id, Outcome::Failed { message }).await;
    }

    /// Removes what a deploy has made that did not come to a good end. What the engine is at work on, or does not tell of, is
    /// removed as soon as that is over, also after its result is told. After a restart, the control plane has what is still
    /// there stopped when it hears of it.
    async fn undo(self: &Arc<Self>, job_id: JobId, instance_id: InstanceId) {
        space::give_way(&self.host);
        if self.is_undone(job_id, instance_id).await {
            return;
        }
        let jobs = self.clone();
        tokio::spawn(async move {
            loop {
                sleep(UNDO_PAUSE).await;
                if jobs.is_undone(job_id, instance_id).await {
                    break;
                }
            }
            jobs.changed.notify_one();
        });
    }

    /// Tries to remove what a deploy has made; whether there is no use in trying it again.
    async fn is_undone(&self, job_id: JobId, instance_id: InstanceId) -> bool {
        let clear = async {
            let cleared = self.clear(job_id, instance_id).await;
            if cleared.as_ref().err().is_none_or(EngineError::is_away) {
                return cleared;
            }
            // It may be for want of room.
            let _ = space::make_room(&self.host).await;
            self.clear(job_id, instance_id).await
        };
        let error: Box<dyn Error + Send + Sync> = match timeout(UNDO_PATIENCE, clear).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) if !error.is_away() => {
                tracing::warn!(
                    job.id = %job_id, instance.id = %instance_id, error = &error as &dyn Error,
                    "parts of a failed deploy are left behind"
                );
                return true;
            }
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        tracing::warn!(
            job.id = %job_id, instance.id = %instance_id, error = &*error as &dyn Error,
            "parts of a failed deploy are still there; trying to remove them until it works"
        );
        false
    }

    /// Removes what a deploy has made.
    async fn clear(&self, job_id: JobId, instance_id: InstanceId) -> Result<(), EngineError> {
        self.host.engine.end_build(&job_id.to_string());
        self.host.undo_deploy(job_id, instance_id).await
    }

    fn next(&self, line: Line) -> Option<Due> {
        let mut state = self.state();
        let due = state.queues.get_mut(&line).and_then(VecDeque::pop_front);
        if due.is_none() {
            state.queues.remove(&line);
        }
        due
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

    async fn deploy(self: &Arc<Self>, job: &Job, deploy: &Deploy, cancel: &CancellationToken) -> Outcome {
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
            self.undo(job.job_id, job.instance_id).await;
        }
        attempt.close(last_words).await;
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
