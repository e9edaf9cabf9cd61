//! Simulated agents: the real channel of a worker or an edge, driven by the test.

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::{
    id::{InstanceId, JobId},
    routes::RouteTable,
    state::DeploymentState,
};
use wisehosting_node::{
    channel::{self, ChannelHandle, Event, Identity, Role},
    clock::Clock,
    config::{ControlPlaneEndpoint, ControlPlaneUrl},
    mesh::PeerSets,
    random,
};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage, ResultAck},
    payload::{
        Capacity, Certificates, Heartbeat, Job, JobRef, JobResult, JobStatus, Outcome, Register,
        RouteProblem, RoutesAck, RoutesDrained, RuntimeLog, RuntimeLogAck, Work,
    },
};

use crate::platform::{PATIENCE, Platform, api_key, label};

pub(crate) struct Agent {
    handle: ChannelHandle,
    events: mpsc::Receiver<Event>,
    /// What came while something else was waited for.
    set_aside: VecDeque<HubMessage>,
    /// A deploy job that is given away while its worker connects is sent twice.
    jobs: HashSet<JobId>,
    /// What an edge was told last of certificates.
    pub(crate) known: Certificates,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Agent {
    pub(crate) async fn worker(platform: &Platform, name: &str) -> Self {
        Self::connect(platform, Role::Worker, name, &[]).await
    }

    pub(crate) async fn edge(platform: &Platform, name: &str) -> Self {
        Self::connect(platform, Role::Edge, name, &[]).await
    }

    /// An agent that says that it runs these jobs; returns once it is welcome.
    pub(crate) async fn connect(platform: &Platform, role: Role, name: &str, running_jobs: &[JobId]) -> Self {
        let url = ControlPlaneUrl::try_from(platform.url.clone()).unwrap();
        let endpoint = ControlPlaneEndpoint { url, name: label(name), api_key_file: None };
        let identity = Identity { role, endpoint, api_key: api_key(name).into(), version: "test" };
        let running_jobs = running_jobs.to_vec();
        let capacity = Some(Capacity { memory_bytes: 1 << 30, cpu_millis: 4_000 });
        let register = move || Register {
            version: "test".to_owned(),
            capacity: capacity.filter(|_| role == Role::Worker),
            running_jobs: running_jobs.clone(),
        };
        let shutdown = CancellationToken::new();
        let clock: Arc<dyn Clock> = platform.clock.clone();
        let (handle, events) =
            channel::spawn(identity, clock.clone(), register, PeerSets::default(), shutdown.clone()).unwrap();
        let (set_aside, jobs, known) = (VecDeque::new(), HashSet::new(), Certificates::default());
        let mut agent = Self { handle, events, set_aside, jobs, known, clock, shutdown };
        let first = agent.event().await;
        assert!(matches!(first, Event::Connected(_)), "{first:?}");
        agent
    }

    pub(crate) async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("nothing came in time").unwrap()
    }

    pub(crate) async fn next(&mut self) -> HubMessage {
        match self.set_aside.pop_front() {
            Some(message) => message,
            None => self.received().await,
        }
    }

    async fn received(&mut self) -> HubMessage {
        loop {
            match self.event().await {
                Event::Message(HubMessage::Job(job))
                    if matches!(job.work, Work::Deploy(_)) && !self.jobs.insert(job.job_id) => {}
                Event::Message(HubMessage::Certificates(known)) => self.known = known,
                Event::Message(message) => return message,
                event => panic!("no message but {event:?}"),
            }
        }
    }

    pub(crate) async fn send(&self, message: impl Into<AgentMessage>) {
        self.handle.send(message).await.unwrap();
    }

    /// The next job, which must be a deploy.
    pub(crate) async fn deploy_job(&mut self) -> Job {
        match self.next().await {
            HubMessage::Job(job) if matches!(job.work, Work::Deploy(_)) => job,
            message => panic!("no deploy job but {message:?}"),
        }
    }

    /// The next job, which must be a stop.
    pub(crate) async fn stop_job(&mut self) -> Job {
        match self.next().await {
            HubMessage::Job(job) if matches!(job.work, Work::Stop(_)) => job,
            message => panic!("no stop job but {message:?}"),
        }
    }

    /// The next job, whatever is called off before it; it must be a stop.
    pub(crate) async fn stop_job_beside_cancels(&mut self) -> Job {
        loop {
            match self.next().await {
                HubMessage::JobCancel(_) => {}
                HubMessage::Job(job) if matches!(job.work, Work::Stop(_)) => return job,
                message => panic!("no stop job but {message:?}"),
            }
        }
    }

    /// The next job, which must be a delete.
    pub(crate) async fn delete_job(&mut self) -> Job {
        match self.next().await {
            HubMessage::Job(job) if matches!(job.work, Work::Delete) => job,
            message => panic!("no delete job but {message:?}"),
        }
    }

    pub(crate) async fn ack(&self, job: &Job) {
        self.send(JobRef { job_id: job.job_id }).await;
    }

    pub(crate) async fn status(&self, job: &Job, state: DeploymentState) {
        self.send(JobStatus { job_id: job.job_id, state, observed_at_ms: self.clock.now_ms() }).await;
    }

    /// Sends a result and waits until it is stored.
    pub(crate) async fn finish(&mut self, job: &Job, outcome: Outcome) {
        self.result(job, outcome).await;
        self.acknowledged(job).await;
    }

    /// Waits until a result is stored.
    pub(crate) async fn acknowledged(&mut self, job: &Job) {
        let ack = HubMessage::ResultAck(ResultAck(JobRef { job_id: job.job_id }));
        loop {
            let message = self.received().await;
            if message == ack {
                return;
            }
            self.set_aside.push_back(message);
        }
    }

    pub(crate) async fn result(&self, job: &Job, outcome: Outcome) {
        let (job_id, instance_id) = (job.job_id, job.instance_id);
        self.send(JobResult { job_id, instance_id, outcome, observed_at_ms: self.clock.now_ms() }).await;
    }

    /// Waits until all that was said before is stored: the hub answers a question in its turn.
    pub(crate) async fn is_heard(&mut self) {
        let instance_id = InstanceId(random::uuid());
        self.send(RuntimeLog { instance_id, after: None, cursor: None, lines: Vec::new() }).await;
        let answer = HubMessage::RuntimeLogAck(RuntimeLogAck { instance_id, cursor: None });
        loop {
            let message = self.received().await;
            if message == answer {
                return;
            }
            self.set_aside.push_back(message);
        }
    }

    pub(crate) async fn heartbeat(&mut self, running_jobs: &[JobId]) {
        let running_jobs = running_jobs.to_vec();
        self.send(Heartbeat { memory_bytes_used: 0, cpu_millis_used: 0, instances: Some(0), running_jobs })
            .await;
        self.is_heard().await;
    }

    /// Waits until an edge has been told so of certificates.
    pub(crate) async fn knows(&mut self, so: impl Fn(&Certificates) -> bool) {
        while !so(&self.known) {
            match self.event().await {
                Event::Message(HubMessage::Certificates(known)) => self.known = known,
                Event::Message(message) => self.set_aside.push_back(message),
                event => panic!("not told but {event:?}"),
            }
        }
    }

    /// The next route table.
    pub(crate) async fn table(&mut self) -> RouteTable {
        match self.next().await {
            HubMessage::Routes(routes) => routes.table,
            message => panic!("no routes but {message:?}"),
        }
    }

    pub(crate) async fn serves(&self, generation: u64) {
        self.send(RoutesAck { generation, problems: Vec::new() }).await;
    }

    pub(crate) async fn cannot_reach(&self, generation: u64, instance_id: InstanceId) {
        let problem = RouteProblem { instance_id, message: "connection refused".to_owned() };
        self.send(RoutesAck { generation, problems: vec![problem] }).await;
    }

    pub(crate) async fn has_drained(&self, generation: u64) {
        self.send(RoutesDrained { generation }).await;
    }
}

/// A healthy instance at this port of worker-1.
pub(crate) fn deployed(port: u16) -> Outcome {
    deployed_at(([10, 50, 0, 11], port).into())
}

pub(crate) fn deployed_at(address: SocketAddr) -> Outcome {
    Outcome::Deployed {
        commit: "0123456789012345678901234567890123456789".parse().unwrap(),
        image_id: "sha256:00".to_owned(),
        address,
    }
}
