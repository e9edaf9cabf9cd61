//! What the worker does with what the control plane says, and what it says by itself.
//!
//! Invariant: a control plane that is away changes nothing here but who listens.

use crate::{host::Host, instances::Running, jobs::Jobs};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::{Interval, MissedTickBehavior, interval},
};
use wisehosting_containers::Engine;
use wisehosting_domain::id::JobId;
use wisehosting_node::{channel::Event, usage};
use wisehosting_protocol::{
    message::HubMessage,
    payload::{Heartbeat, Job},
};

/// Until the control plane says how often it wants a heartbeat.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// However often it wants one.
const HEARTBEAT_EVERY_MIN: Duration = Duration::from_millis(100);

/// What the control plane may have said of jobs before that is written down. Half of it is kept for what is not a job.
const CALLS_MAX: usize = 256;

/// What the control plane says of jobs. While the disk is slow, it says the same again with each connection.
enum Call {
    Submit(Job),
    Cancel(JobId),
    Forget(JobId),
}

/// The worker's side of the conversation.
pub struct Agent<E> {
    /// What all jobs share.
    pub host: Arc<Host<E>>,
    /// The jobs.
    pub jobs: Jobs<E>,
    /// The instances that run; none until they were looked at.
    pub running: watch::Receiver<Option<Vec<Running>>>,
    /// Calls for a report of every instance's state.
    pub report_all: Arc<Notify>,
}

impl<E: Engine> Agent<E> {
    /// Listens until the channel is shut down.
    pub async fn listen(self, events: mpsc::Receiver<Event>) {
        let (set_pace, pace) = watch::channel(HEARTBEAT_EVERY);
        let (calls, called) = mpsc::channel(CALLS_MAX);
        tokio::select! {
            // In this order: however much the control plane says, and however slow the disk is on which it is written
            // down, a heartbeat is not late for it.
            biased;
            () = self.beat(pace) => {}
            () = self.hear_all(events, set_pace, calls) => {}
            () = self.do_all(called) => {}
        }
    }

    async fn beat(&self, mut pace: watch::Receiver<Duration>) {
        let cpu = usage::CpuMeter::default();
        loop {
            let mut heartbeat = every(*pace.borrow_and_update());
            while let Some(_tick) = until_changed(&mut pace, heartbeat.tick()).await {
                self.send_heartbeat(&cpu);
                // One may have found no room. While nobody listens, they would only take the room of other messages.
                if self.host.connection().is_some() {
                    self.jobs.offer_results();
                }
            }
        }
    }

    async fn hear_all(
        &self,
        mut events: mpsc::Receiver<Event>,
        pace: watch::Sender<Duration>,
        calls: mpsc::Sender<Call>,
    ) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Connected(registered) => {
                    let wanted = Duration::from_millis(registered.heartbeat_interval_ms);
                    self.host.connected();
                    pace.send_replace(wanted.max(HEARTBEAT_EVERY_MIN));
                    self.jobs.offer_results();
                    self.report_all.notify_one();
                }
                Event::Message(message) => self.hear(message, &calls),
                Event::Disconnected => self.host.disconnected(),
            }
        }
    }

    /// Does what is about jobs, in its order. The disk is waited for.
    async fn do_all(&self, mut calls: mpsc::Receiver<Call>) {
        while let Some(call) = calls.recv().await {
            match call {
                Call::Submit(job) => self.jobs.submit(job).await,
                Call::Cancel(job_id) => self.jobs.cancel(job_id),
                Call::Forget(job_id) => self.jobs.forget(job_id).await,
            }
        }
    }

    fn hear(&self, message: HubMessage, calls: &mpsc::Sender<Call>) {
        match message {
            HubMessage::Job(job) => self.call(Call::Submit(job), calls),
            HubMessage::JobCancel(cancel) => self.call(Call::Cancel(cancel.0.job_id), calls),
            HubMessage::ResultAck(ack) => {
                self.jobs.acknowledge(ack.0.job_id);
                self.call(Call::Forget(ack.0.job_id), calls);
            }
            HubMessage::RuntimeLogAck(ack) => self.host.logs.answers.take(ack),
            HubMessage::Error(error) => {
                tracing::warn!(message = error.message, "the control plane could not use a message");
            }
            HubMessage::Registered(_)
            | HubMessage::Routes(_)
            | HubMessage::Certificates(_)
            | HubMessage::Certificate(_)
            | HubMessage::MeshPeers(_) => {
                tracing::warn!("the control plane sent a message that is not for a worker");
            }
        }
    }

    /// Has it done in its turn, if there is room. Without that, nothing is lost: a job that is not acknowledged comes again, and so
    /// does a cancel with the next connection; a result that is not forgotten is offered by the next run.
    fn call(&self, call: Call, calls: &mpsc::Sender<Call>) {
        let has_room = !matches!(call, Call::Submit(_)) || calls.capacity() > CALLS_MAX / 2;
        let left =
            if has_room { calls.try_send(call).err().map(TrySendError::into_inner) } else { Some(call) };
        match left {
            None => {}
            Some(Call::Submit(job)) => {
                tracing::warn!(job.id = %job.job_id, "a job is not taken yet: those before it are not written down");
            }
            Some(Call::Cancel(job_id)) => self.jobs.cancel(job_id),
            Some(Call::Forget(job_id)) => {
                tracing::warn!(job.id = %job_id, "a stored result is sent again later");
            }
        }
    }

    fn send_heartbeat(&self, cpu: &usage::CpuMeter) {
        self.host.outbox.offer(Heartbeat {
            memory_bytes_used: usage::memory_bytes(),
            cpu_millis_used: cpu.millis(),
            instances: self.named_and_running(),
            running_jobs: self.jobs.unsettled(),
        });
    }

    /// How many instances run, once the control plane was told on this connection of all that there are. One that a job is at
    /// work on is that job's to tell of.
    fn named_and_running(&self) -> Option<u32> {
        if self.host.connection() != *self.host.logs.named_on.borrow() {
            return None;
        }
        let running = self.running.borrow();
        let named = running.as_ref()?.iter().filter(|one| !self.jobs.is_busy(one.instance));
        Some(u32::try_from(named.count()).unwrap_or(u32::MAX))
    }
}

/// What `waited` comes to, unless the value changes first.
async fn until_changed<T>(
    value: &mut watch::Receiver<Duration>,
    waited: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        Ok(()) = value.changed() => None,
        waited = waited => Some(waited),
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
