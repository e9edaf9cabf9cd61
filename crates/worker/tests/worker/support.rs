//! A worker without a network: what the control plane would say is put in, what the worker says is taken out.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};
use uuid::Uuid;
use wisehosting_containers::{Build, BuildBounds, Engine, ImageId, fake::FakeEngine, testing::ADDRESS};
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId, JobId},
    limits::Limits,
    source::Source,
    state::ViolationKind,
};
use wisehosting_node::{channel::Event, clock::SystemClock};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage},
    payload::{Deploy, Job, JobResult, Outcome, Registered, RuntimeLog, RuntimeLogAck, Stop, Work},
};
use wisehosting_worker::{
    agent::Agent,
    host::{BuildLimits, GitSettings, Host, HostSettings},
    instances::Instances,
    jobs::Jobs,
    journal::Journal,
    outbox::Outbox,
    outside::{Machine, Outside},
    restart::RestartPolicy,
    space::{self, SpaceSettings},
    stats::Stats,
    violations::Violations,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

const STATS_EVERY: Duration = Duration::from_millis(500);

/// A worker at work.
pub(crate) struct Worker {
    events: mpsc::Sender<Event>,
    said: mpsc::UnboundedReceiver<AgentMessage>,
    /// Where the cursors of logs are kept, beyond this worker.
    dir: PathBuf,
    /// Everything that was taken out so far.
    pub(crate) heard: Vec<AgentMessage>,
}

/// Starts a worker on this engine, with its folders in `dir`.
pub(crate) async fn start(engine: impl Engine, dir: &Path) -> Worker {
    start_with(engine, dir, |_| {}).await
}

/// The same with other settings.
pub(crate) async fn start_with(
    engine: impl Engine,
    dir: &Path,
    change: impl FnOnce(&mut HostSettings),
) -> Worker {
    let mut settings = settings_at(ADDRESS, dir);
    change(&mut settings);
    start_on(settings, engine, dir).await
}

/// The same for the engine in memory, at an address where nobody listens.
pub(crate) async fn start_in_memory(engine: FakeEngine, dir: &Path) -> Worker {
    start_in_memory_with(RestartPolicy::default(), engine, dir).await
}

/// The same, with instances that end treated in another way.
pub(crate) async fn start_in_memory_with(restart: RestartPolicy, engine: FakeEngine, dir: &Path) -> Worker {
    start_on(HostSettings { restart, ..settings_in_memory(dir) }, engine, dir).await
}

/// The same, with this authority of the hosts that repositories are fetched from.
pub(crate) async fn start_in_memory_trusting(ca_file: &Path, engine: FakeEngine, dir: &Path) -> Worker {
    let settings = settings_in_memory(dir);
    let git = GitSettings { ca_file: Some(ca_file.to_owned()), ..settings.git };
    start_on(HostSettings { git, ..settings }, engine, dir).await
}

/// Three ends in a row are a crash loop, and it is over soon.
pub(crate) fn strict() -> RestartPolicy {
    let first_pause = Duration::from_millis(20);
    RestartPolicy { first_pause, short_runs_max: 3, ..RestartPolicy::default() }
}

/// An image of a program, built by the engine in memory from a Dockerfile in `dir`.
pub(crate) async fn image_in_memory(
    engine: &FakeEngine,
    dir: &Path,
    program: &str,
    labels: BTreeMap<String, String>,
) -> ImageId {
    let dockerfile = format!("FROM scratch\nCMD [\"{program}\"]\n");
    fs::write(dir.join("Dockerfile"), dockerfile).expect("written");
    let build = Build {
        name: "x".to_owned(),
        context: dir.to_owned(),
        dockerfile: "Dockerfile".into(),
        network: "x".to_owned(),
        bounds: BuildBounds { memory_bytes: 0, cpu_millis: 2_000, processes_max: 0, at_a_time: 2 },
        tag: "localhost/x:1".to_owned(),
        labels,
    };
    let (log, _received) = mpsc::channel(16);
    engine.build(&build, log).await.expect("an image").id
}

/// Settings for the engine in memory, with folders in `dir`.
pub(crate) fn settings_in_memory(dir: &Path) -> HostSettings {
    settings_at(Ipv4Addr::new(127, 0, 0, 53), dir)
}

fn settings_at(address: Ipv4Addr, dir: &Path) -> HostSettings {
    HostSettings {
        address: address.into(),
        ports: 20_000..=20_099,
        work_dir: dir.join("work"),
        git: GitSettings { allow_local: true, ..GitSettings::default() },
        builds: BuildLimits {
            bounds: BuildBounds {
                memory_bytes: 512 * 1024 * 1024,
                cpu_millis: 2_000,
                processes_max: 1_000,
                at_a_time: 2,
            },
            timeout: Duration::from_secs(600),
        },
        starts: 3,
        images_kept: 2,
        space: SpaceSettings { free_min_bytes: 0, reserve_bytes: 0, dir: dir.join("state") },
        // Programs of other tests that the kernel ends for their memory say nothing of this one's.
        restart: RestartPolicy { trust_kernel: false, ..RestartPolicy::default() },
    }
}

async fn start_on(settings: HostSettings, engine: impl Engine, dir: &Path) -> Worker {
    start_outside(Machine, settings, engine, dir).await
}

/// Starts a worker in another world.
pub(crate) async fn start_outside(
    outside: impl Outside,
    settings: HostSettings,
    engine: impl Engine,
    dir: &Path,
) -> Worker {
    let (say, said) = mpsc::unbounded_channel();
    let outbox = Outbox::new(move |message| say.send(message).is_ok());
    let host = Host::new(engine, outbox, Arc::new(SystemClock), settings).with_outside(outside);
    let host = Arc::new(host);
    let (changed, report_all) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let journal = Journal::open(&dir.join("state")).expect("a journal");
    let jobs = Jobs::new(host.clone(), journal, changed.clone()).expect("jobs");
    jobs.recover().await.expect("recovered");
    let violations = Violations::open(&dir.join("state")).expect("the violations");
    let instances = Instances::new(host.clone(), jobs.clone(), violations, changed, report_all.clone());
    let stats = Stats::new(host.clone(), instances.running(), Some("lo".to_owned()));
    let room = space::keep(host.clone());
    let written = stats.written();
    let agent = Agent { host, jobs, running: instances.running(), report_all };
    let (events, received) = mpsc::channel(16);
    tokio::spawn(async move {
        // The worker ends when the test drops its end.
        tokio::select! {
            () = agent.listen(received) => {}
            () = instances.watch(written) => {}
            () = stats.tell(STATS_EVERY) => {}
            () = room => {}
        }
    });
    let worker = Worker { events, said, dir: dir.to_owned(), heard: Vec::new() };
    worker.connect().await;
    worker
}

impl Worker {
    /// A connection to the control plane begins.
    pub(crate) async fn connect(&self) {
        let registered = Registered { version: "test".to_owned(), heartbeat_interval_ms: 600_000 };
        self.events.send(Event::Connected(registered)).await.expect("the worker listens");
    }

    /// The control plane says something.
    pub(crate) async fn tell(&self, message: impl Into<HubMessage>) {
        self.events.send(Event::Message(message.into())).await.expect("the worker listens");
    }

    /// A connection to the control plane ends.
    pub(crate) async fn disconnect(&self) {
        self.events.send(Event::Disconnected).await.expect("the worker listens");
    }

    /// Stores lines as the control plane does; whether they are new.
    async fn store(&self, log: &RuntimeLog) -> bool {
        let path = self.dir.join(format!("cursor-{}", log.instance_id));
        let mut cursor = fs::read_to_string(&path).ok();
        let is_new = log.cursor.is_some() && cursor == log.after;
        if is_new {
            fs::write(&path, log.cursor.as_deref().unwrap_or_default()).expect("written");
            cursor.clone_from(&log.cursor);
        }
        self.tell(HubMessage::RuntimeLogAck(RuntimeLogAck { instance_id: log.instance_id, cursor })).await;
        is_new
    }

    /// The next message with lines, or that asks for a cursor.
    pub(crate) async fn log(&mut self) -> RuntimeLog {
        loop {
            if let AgentMessage::RuntimeLog(log) = self.message().await {
                return log;
            }
        }
    }

    /// The next message, whatever it is. Nobody answers it.
    pub(crate) async fn message(&mut self) -> AgentMessage {
        let message = tokio::time::timeout(PATIENCE, self.said.recv()).await.expect("a message in time");
        message.expect("the worker speaks")
    }

    /// Finds a message that `pick` takes among those that came, or else waits for one.
    pub(crate) async fn find<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&AgentMessage) -> Option<T>,
    ) -> T {
        match self.heard.iter().find_map(&mut pick) {
            Some(found) => found,
            None => self.wait(what, pick).await,
        }
    }

    /// Waits for a message that `pick` takes, and that comes from now on. Lines of a log are seen when they are stored.
    pub(crate) async fn wait<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&AgentMessage) -> Option<T>,
    ) -> T {
        // A worker always says something: that it speaks is not enough.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = timeout_at(deadline, self.said.recv()).await;
            let Ok(Some(message)) = message else { panic!("no {what} came; what came: {:#?}", self.heard) };
            if let AgentMessage::RuntimeLog(log) = &message
                && !self.store(log).await
            {
                continue;
            }
            let picked = pick(&message);
            self.heard.push(message);
            if let Some(picked) = picked {
                return picked;
            }
        }
    }

    /// Waits for the result of a job.
    pub(crate) async fn result(&mut self, job: &Job) -> Outcome {
        let job_id = job.job_id;
        self.wait("result", |message| match message {
            AgentMessage::JobResult(JobResult { job_id: id, outcome, .. }) if *id == job_id => {
                Some(outcome.clone())
            }
            _ => None,
        })
        .await
    }

    /// Does a job to its end.
    pub(crate) async fn run(&mut self, job: &Job) -> Outcome {
        self.tell(job.clone()).await;
        self.result(job).await
    }

    /// Does a job that must fail, and returns its message.
    pub(crate) async fn failure(&mut self, job: &Job) -> String {
        match self.run(job).await {
            Outcome::Failed { message } => message,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a violation: whose, which and why.
    pub(crate) async fn violation(&mut self) -> (InstanceId, ViolationKind, String) {
        self.wait("violation", |message| match message {
            AgentMessage::Violation(found) => Some((found.instance_id, found.kind, found.message.clone())),
            _ => None,
        })
        .await
    }

    /// The lines of all build logs so far.
    pub(crate) fn build_log(&self) -> Vec<String> {
        let logs = self.heard.iter().filter_map(|message| match message {
            AgentMessage::BuildLog(log) => Some(log),
            _ => None,
        });
        logs.flat_map(|log| log.lines.iter().map(|line| line.text.clone())).collect()
    }
}

/// A deploy of this repository by this app.
pub(crate) fn deploy_job(app: u128, repository: &Path) -> Job {
    let source = Source {
        repository: repository.to_str().expect("text").parse().expect("a repository"),
        branch: None,
        commit: None,
    };
    let deploy = Deploy {
        deployment_id: DeploymentId(unique()),
        source,
        login: None,
        image_id: None,
        preset: None,
        read_only: None,
        limits: Limits::new(64 * 1024 * 1024, 500, 32).expect("limits"),
        port: 8080,
        health_path: "/".to_owned(),
        health_timeout_ms: 20_000,
        deadline_ms: 120_000,
        environment: [("GREETING".to_owned(), "hello".into())].into(),
    };
    job(app, InstanceId(unique()), Work::Deploy(Box::new(deploy)))
}

/// A stop of this instance of this app.
pub(crate) fn stop_job(app: u128, instance: InstanceId) -> Job {
    job(app, instance, Work::Stop(Stop { grace_ms: 1_000 }))
}

/// A delete of this app, whose last instance here was this one.
pub(crate) fn delete_job(app: u128, instance: InstanceId) -> Job {
    job(app, instance, Work::Delete)
}

fn job(app: u128, instance_id: InstanceId, work: Work) -> Job {
    let app_name = format!("app-{app}").parse().expect("a label");
    Job { job_id: JobId(unique()), app_id: AppId(Uuid::from_u128(app)), app: app_name, instance_id, work }
}

/// The settings of a deploy job.
pub(crate) fn settings(job: &mut Job) -> &mut Deploy {
    match &mut job.work {
        Work::Deploy(deploy) => deploy,
        Work::Stop(_) | Work::Delete => panic!("not a deploy"),
    }
}

fn unique() -> Uuid {
    wisehosting_node::random::uuid()
}

/// A bare repository whose newest commit has the files of `content`.
pub(crate) fn repository(content: &Path) -> PathBuf {
    let bare = content.with_extension("git");
    git(content, &["init", "--quiet", "--initial-branch=main"]);
    git(content, &["add", "--all"]);
    git(content, &["commit", "--quiet", "--message=first"]);
    git(content, &["clone", "--quiet", "--bare", "--", ".", bare.to_str().expect("text")]);
    bare
}

/// Runs git in a folder, as somebody.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"];
    let output = Command::new("git")
        .args(identity)
        .arg("-C")
        .arg(dir)
        .args(arguments)
        .output()
        .expect("running git: is it installed?");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a server answers.
pub(crate) async fn get(address: SocketAddr) -> String {
    get_path(address, "/").await
}

/// What a server answers at a path.
pub(crate) async fn get_path(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

/// Whether a program with this argument runs.
pub(crate) fn runs(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let mut commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| command.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
}
