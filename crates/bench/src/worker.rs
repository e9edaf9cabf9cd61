//! The simulated worker: the real channel, and containers that exist in its reports only.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{sync::mpsc, time::interval};
use tokio_util::sync::{CancellationToken, DropGuard};
use wisehosting_domain::id::JobId;
use wisehosting_node::{
    channel::{self, ChannelHandle, Event, Identity, Role},
    clock::{Clock as _, SystemClock},
    config::{ControlPlaneEndpoint, ControlPlaneUrl},
    mesh::PeerSets,
};
use wisehosting_protocol::{
    message::HubMessage,
    payload::{Capacity, Heartbeat, Job, JobRef, JobResult, Outcome, Register, Work},
};

use crate::platform::{Platform, WORKER};

/// A connected worker; dropping it disconnects.
#[derive(Debug)]
pub struct Worker {
    channel: ChannelHandle,
    deploys: mpsc::UnboundedReceiver<(Job, Instant)>,
    stopped: mpsc::UnboundedReceiver<JobId>,
    _connected: DropGuard,
}

impl Worker {
    /// Begins to connect.
    ///
    /// # Errors
    /// There are no certificate authorities on this machine.
    pub fn connect(platform: &Platform) -> anyhow::Result<Self> {
        let url = ControlPlaneUrl::try_from(format!("http://{}", platform.internal()))
            .map_err(anyhow::Error::msg)?;
        let endpoint = ControlPlaneEndpoint { url, name: WORKER.parse()?, api_key_file: None };
        let identity = Identity { role: Role::Worker, endpoint, api_key: WORKER.into(), version: "bench" };
        let register = || Register {
            version: "bench".to_owned(),
            capacity: Some(Capacity { memory_bytes: 8 << 30, cpu_millis: 8_000 }),
            running_jobs: Vec::new(),
        };
        let shutdown = CancellationToken::new();
        let (channel, events) =
            channel::spawn(identity, Arc::new(SystemClock), register, PeerSets::default(), shutdown.clone())?;
        let (deploys_in, deploys) = mpsc::unbounded_channel();
        let (stopped_in, stopped) = mpsc::unbounded_channel();
        tokio::spawn(work(events, channel.clone(), deploys_in, stopped_in));
        Ok(Self { channel, deploys, stopped, _connected: shutdown.drop_guard() })
    }

    /// The next deploy job, and when it came.
    ///
    /// # Errors
    /// The channel has ended.
    pub async fn deploy_job(&mut self) -> anyhow::Result<(Job, Instant)> {
        self.deploys.recv().await.context("the channel has ended")
    }

    /// Waits until the control plane knows that the next old instance is stopped.
    ///
    /// # Errors
    /// The channel has ended.
    pub async fn stopped(&mut self) -> anyhow::Result<()> {
        self.stopped.recv().await.map(drop).context("the channel has ended")
    }

    /// Says that the instance of a job runs there and is healthy.
    ///
    /// # Errors
    /// The channel has ended.
    pub async fn report_deployed(&self, job: &Job, address: SocketAddr) -> anyhow::Result<()> {
        let commit = "0123456789012345678901234567890123456789".parse()?;
        let outcome = Outcome::Deployed { commit, image_id: "sha256:00".to_owned(), address };
        Ok(self.channel.send(result(job, outcome)).await?)
    }

    /// Says that a job failed.
    ///
    /// # Errors
    /// The channel has ended.
    pub async fn report_failed(&self, job: &Job) -> anyhow::Result<()> {
        let outcome = Outcome::Failed { message: "Nothing is built here.".to_owned() };
        Ok(self.channel.send(result(job, outcome)).await?)
    }
}

/// Takes what the control plane sends: deploys are passed on, stops are done. Sends heartbeats.
async fn work(
    mut events: mpsc::Receiver<Event>,
    channel: ChannelHandle,
    deploys: mpsc::UnboundedSender<(Job, Instant)>,
    stopped: mpsc::UnboundedSender<JobId>,
) {
    let mut stopping = None;
    // Until the control plane says how often; one that is silent is given no job.
    let mut heartbeat = interval(Duration::from_secs(10));
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = heartbeat.tick() => {
                let _ = channel.send(idle()).await;
                continue;
            }
        };
        let Some(event) = event else { return };
        let received_at = Instant::now();
        match event {
            Event::Connected(told) => {
                heartbeat = interval(Duration::from_millis(told.heartbeat_interval_ms));
            }
            Event::Message(HubMessage::Job(job)) => {
                let _ = channel.send(JobRef { job_id: job.job_id }).await;
                match job.work {
                    Work::Deploy(_) => drop(deploys.send((job, received_at))),
                    Work::Stop(_) => {
                        stopping = Some(job.job_id);
                        let _ = channel.send(result(&job, Outcome::Stopped)).await;
                    }
                    Work::Delete => drop(channel.send(result(&job, Outcome::Deleted)).await),
                }
            }
            Event::Message(HubMessage::ResultAck(ack)) if stopping == Some(ack.0.job_id) => {
                let _ = stopped.send(ack.0.job_id);
            }
            _ => {}
        }
    }
}

/// The heartbeat of a host on which nothing runs.
fn idle() -> Heartbeat {
    Heartbeat { memory_bytes_used: 0, cpu_millis_used: 0, instances: Some(0), running_jobs: Vec::new() }
}

fn result(job: &Job, outcome: Outcome) -> JobResult {
    let (job_id, instance_id) = (job.job_id, job.instance_id);
    JobResult { job_id, instance_id, outcome, observed_at_ms: SystemClock.now_ms() }
}
