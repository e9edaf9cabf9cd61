//! What deploys say on their way to the control plane: their logs, and the step that they have reached.
//!
//! Invariants: lines arrive in the order in which they were written, numbered from 0; a build that does not stop
//! printing fills neither disk nor memory; a log is kept until the result of its job is stored, and sent again on each
//! connection until then, before the result and on the same connection, so that a control plane that has a result has the
//! whole log (it stores each line once). The log of a deploy that has ended is a file, too, so it outlives the worker.

use crate::{
    lines::{self, Lines},
    outbox::Outbox,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;
use wisehosting_containers::LogStream;
use wisehosting_domain::{
    id::{DeploymentId, JobId},
    state::DeploymentState,
};
use wisehosting_node::clock::Clock;
use wisehosting_protocol::payload::{BuildLog as Message, JobStatus, LogLine, Stream};

/// How long lines are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(100);
/// Output of one build that is kept, in bytes. What the platform itself says is kept beside it.
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an empty line costs, wherever it is kept.
const LINE_COST_BYTES: usize = 64;

/// The logs of the jobs whose results are not stored.
pub(crate) struct BuildLogs {
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    kept: Mutex<BTreeMap<JobId, Arc<Kept>>>,
    /// On which connection somebody listens, if somebody does.
    connection: watch::Receiver<Option<u64>>,
}

impl BuildLogs {
    /// No logs yet.
    pub(crate) fn new(
        outbox: Outbox,
        clock: Arc<dyn Clock>,
        connection: watch::Receiver<Option<u64>>,
    ) -> Self {
        Self { outbox, clock, kept: Mutex::default(), connection }
    }

    /// Begins the log of a job.
    pub(crate) fn start(&self, job_id: JobId, deployment_id: DeploymentId) -> BuildLog {
        let kept = self.keep(job_id, deployment_id, Lines::default());
        let gathering = kept.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                gathering.offer();
                sleep(GATHER).await;
            }
        }));
        BuildLog { job_id, kept, clock: self.clock.clone(), _task: task }
    }

    /// What there is of a job's log, to be written down.
    pub(crate) fn written(&self, job_id: JobId) -> Option<WrittenLog> {
        let kept = self.kept().get(&job_id)?.clone();
        let lines = kept.said().lines.all().to_vec();
        Some(WrittenLog { job_id, deployment_id: kept.deployment_id, lines })
    }

    /// Takes a log that was written down back.
    pub(crate) fn restore(&self, log: WrittenLog) {
        self.keep(log.job_id, log.deployment_id, Lines::from(log.lines));
    }

    fn keep(&self, job_id: JobId, deployment_id: DeploymentId, lines: Lines) -> Arc<Kept> {
        let said = Mutex::new(Said { step: None, lines, connection: None });
        let (outbox, connection) = (self.outbox.clone(), self.connection.clone());
        let kept = Arc::new(Kept { deployment_id, outbox, connection, said });
        self.kept().insert(job_id, kept.clone());
        kept
    }

    /// Offers what is not sent of the log of a job, on the connection that there is; which that is, if all was taken.
    pub(crate) fn offer(&self, job_id: JobId) -> Option<u64> {
        match self.kept().get(&job_id) {
            Some(kept) => kept.offer(),
            None => *self.connection.borrow(),
        }
    }

    /// The result of a job is stored, and its log with it.
    pub(crate) fn forget(&self, job_id: JobId) {
        self.kept().remove(&job_id);
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of a job that has ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenLog {
    pub(crate) job_id: JobId,
    deployment_id: DeploymentId,
    lines: Vec<LogLine>,
}

/// What is kept of what a deploy says.
#[derive(Debug)]
struct Kept {
    deployment_id: DeploymentId,
    outbox: Outbox,
    connection: watch::Receiver<Option<u64>>,
    said: Mutex<Said>,
}

#[derive(Debug)]
struct Said {
    /// The last step that it has reached, and whether it was told.
    step: Option<(JobStatus, bool)>,
    lines: Lines,
    /// The connection on which that is sent.
    connection: Option<u64>,
}

impl Said {
    /// From now on it is sent on this connection, from the beginning if it is another one.
    fn send_on(&mut self, connection: u64) {
        if self.connection.replace(connection) == Some(connection) {
            return;
        }
        if let Some((_, told)) = &mut self.step {
            *told = false;
        }
        self.lines.rewind();
    }
}

impl Kept {
    /// Offers what is not sent, on the connection that there is; which that is, if all was taken.
    fn offer(&self) -> Option<u64> {
        let deployment_id = self.deployment_id;
        let mut said = self.said();
        let connection = (*self.connection.borrow())?;
        said.send_on(connection);
        if let Some((step, told)) = said.step.as_mut().filter(|(_, told)| !told) {
            *told = self.outbox.offer_on(connection, step.clone());
        }
        let all_told = said.step.as_ref().is_none_or(|(_, told)| *told);
        let offer = |first_line, lines| {
            self.outbox.offer_on(connection, Message { deployment_id, first_line, lines })
        };
        (said.lines.send(offer) && all_told).then_some(connection)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of a job that is at work.
pub(crate) struct BuildLog {
    job_id: JobId,
    kept: Arc<Kept>,
    clock: Arc<dyn Clock>,
    /// Sends what has come together.
    _task: AbortOnDropHandle<()>,
}

impl BuildLog {
    /// Says which step the deploy has reached.
    pub(crate) fn reach(&self, state: DeploymentState) {
        let step = JobStatus { job_id: self.job_id, state, observed_at_ms: self.clock.now_ms() };
        self.kept.said().step = Some((step, false));
        self.kept.offer();
    }

    /// Says something in the platform's own name.
    pub(crate) fn say(&self, text: &str) {
        self.write(Stream::System, text);
    }

    /// Writes what the program said, when it said it.
    pub(crate) fn program(&self, said: impl IntoIterator<Item = wisehosting_containers::LogLine>) {
        let lines = said.into_iter().map(|said| {
            let stream = match said.stream {
                LogStream::Stdout => Stream::Stdout,
                LogStream::Stderr => Stream::Stderr,
            };
            lines::line(said.at, stream, &said.text)
        });
        let mut kept = self.kept.said();
        lines.for_each(|line| kept.lines.push(line));
    }

    /// Writes what the engine says, as much of it as is kept, until it says no more.
    pub(crate) async fn copy(&self, mut output: mpsc::Receiver<String>) {
        let mut left = Some(OUTPUT_BYTES_MAX);
        while let Some(text) = output.recv().await {
            let Some(before) = left else { continue };
            left = before.checked_sub(text.len() + LINE_COST_BYTES);
            match left {
                Some(_) => self.write(Stream::Stdout, &text),
                None => self.say("(The build prints too much: the rest of its output is not kept)"),
            }
        }
    }

    /// Sends what waits, and ends. While nobody listens it does not wait for that.
    pub(crate) async fn finish(self) {
        while self.kept.offer().is_none() && self.kept.connection.borrow().is_some() {
            sleep(GATHER).await;
        }
    }

    fn write(&self, stream: Stream, text: &str) {
        self.kept.said().lines.push(lines::line(self.clock.now(), stream, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use uuid::Uuid;
    use wisehosting_node::clock::SystemClock;
    use wisehosting_protocol::message::AgentMessage;

    #[tokio::test]
    async fn output_without_end_is_cut_and_what_the_platform_says_is_not() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let kept = sent.clone();
        let outbox = Outbox::new(move |message| {
            if let AgentMessage::BuildLog(log) = message {
                kept.lock().expect("not poisoned").extend(log.lines);
            }
            true
        });
        let connection = watch::Sender::new(Some(1));
        let logs = BuildLogs::new(outbox, Arc::new(SystemClock), connection.subscribe());
        let log = logs.start(JobId(Uuid::from_u128(1)), DeploymentId(Uuid::from_u128(2)));
        let (output, received) = mpsc::channel(1);
        let print = async move {
            for _ in 0..OUTPUT_BYTES_MAX / 4_000 {
                output.send("x".repeat(8_000)).await.expect("somebody reads");
            }
        };
        tokio::join!(print, log.copy(received));
        log.say("Healthy");
        log.finish().await;

        let lines = sent.lock().expect("not poisoned");
        assert!(lines.iter().map(|line| line.text.len()).sum::<usize>() < OUTPUT_BYTES_MAX);
        let last: Vec<_> = lines[lines.len() - 2..].iter().map(|line| line.text.as_str()).collect();
        assert_eq!(last, ["(The build prints too much: the rest of its output is not kept)", "Healthy"]);
    }

    #[tokio::test]
    async fn a_log_is_sent_whole_on_the_connection_of_its_result() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let kept = sent.clone();
        let outbox = Outbox::by_connection(move |connection, message| {
            if let AgentMessage::BuildLog(log) = message {
                kept.lock().expect("not poisoned").push((connection, log.first_line, log.lines.len()));
            }
            true
        });
        let connection = watch::Sender::default();
        let logs = BuildLogs::new(outbox, Arc::new(SystemClock), connection.subscribe());
        let job = JobId(Uuid::from_u128(1));
        let log = logs.start(job, DeploymentId(Uuid::from_u128(2)));
        log.say("one");
        assert_eq!(logs.offer(job), None, "nobody listens");
        connection.send_replace(Some(1));
        assert_eq!(logs.offer(job), Some(1));
        log.say("two");
        connection.send_replace(None);
        assert_eq!(logs.offer(job), None);
        connection.send_replace(Some(2));
        assert_eq!(logs.offer(job), Some(2));
        assert_eq!(*sent.lock().expect("not poisoned"), [(Some(1), 0, 1), (Some(2), 0, 2)]);
    }
}
