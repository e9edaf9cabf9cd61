//! A deploy job: fetch, build, start, prove.
//!
//! Invariant: an attempt touches nothing but its own instance. The one that serves now is neither asked nor changed,
//! and what a failed attempt has made is removed by [`Host::undo_deploy`].

mod error;
mod tail;

use crate::{
    bandwidth,
    build_log::BuildLog,
    git::{Fetch, GitError},
    health::{Probe, Unhealthy},
    host::{self, GitSettings, Host, Origin},
    preset::{self, Listing},
    space::{self, Building},
    workspace::Workspace,
    written,
};
pub(crate) use error::DeployError;
use std::{
    error::Error,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tail::Tail;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, mpsc},
    time::{sleep, timeout},
};
use wisehosting_containers::{
    Build, ContainerId, ContainerSpec, ContainerState, Engine, EngineError, Image, ImageId, LogBatch,
    LogPosition,
};
use wisehosting_domain::{source::Commit, state::DeploymentState};
use wisehosting_protocol::payload::{Deploy, Job, Outcome};

/// A repository's own.
const DOCKERFILE: &str = "Dockerfile";
/// For fetching a repository.
const FETCH_TIMEOUT: Duration = Duration::from_secs(300);
/// Ports that look free and are not, before the range counts as full.
const PORT_ATTEMPTS: usize = 50;
/// Lines of build output that the engine may be ahead of the log.
const OUTPUT_LINES: usize = 256;
/// How often a container that is being proven is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Lines of a program's output that its failure is explained with.
const LAST_LINES: usize = 5;
/// For the engine to give that output. It is asked at the end of a deploy that has failed.
const TAIL_PATIENCE: Duration = Duration::from_secs(10);

/// One deploy job at work.
pub(crate) struct Attempt<'a, E> {
    host: &'a Host<E>,
    job: &'a Job,
    deploy: &'a Deploy,
    log: BuildLog,
    /// Told when its wait is over.
    begun: Notify,
}

impl<'a, E: Engine> Attempt<'a, E> {
    pub(crate) fn new(host: &'a Host<E>, job: &'a Job, deploy: &'a Deploy) -> Self {
        let log = host.logs.builds.start(job.job_id, deploy.deployment_id);
        Self { host, job, deploy, log, begun: Notify::new() }
    }

    /// Does the job. May be dropped at any point; then [`Host::undo_deploy`] is due.
    pub(crate) async fn run(&self) -> Result<Outcome, DeployError> {
        check_health_path(&self.deploy.health_path)?;
        let (commit, image) = match self.kept_image().await? {
            Some(kept) => kept,
            None => self.make_image().await?,
        };

        let turns = &self.host.permits.starts;
        let _permit = self.permit(turns, "Waiting for other apps on this worker to start").await?;
        self.reach(DeploymentState::Starting);
        let port = self.port(&image);
        let (container, address) = self.start(&image, port).await?;
        self.limit_bandwidth(&container).await?;
        self.reach(DeploymentState::Checking);
        self.log.say(&format!("Started; waiting for an answer on port {port}"));
        let (proven, ()) = tokio::join!(self.prove(&container, address, port), self.write_to_disk());
        if let Err(error) = proven {
            return Err(self.with_last_words(error, &container).await);
        }
        self.log.say("Healthy");
        Ok(Outcome::Deployed { commit, image_id: image.id.to_string(), address })
    }

    /// The image that is there already.
    async fn kept_image(&self) -> Result<Option<(Commit, Image)>, DeployError> {
        let (Some(id), Some(commit)) = (&self.deploy.image_id, &self.deploy.source.commit) else {
            return Ok(None);
        };
        let image = self.host.engine.image(&ImageId::new(id)).await?;
        let said =
            if image.is_some() { "from the image that is kept" } else { "anew: its image is not kept here" };
        self.log.say(&format!("Starting commit {commit} {said}"));
        Ok(image.map(|image| (commit.clone(), image)))
    }

    async fn make_image(&self) -> Result<(Commit, Image), DeployError> {
        space::make_room(self.host).await.map_err(DeployError::DiskFull)?;
        // Fetching counts as building: it takes disk and network alike.
        let turns = &self.host.permits.builds;
        let _permit = self.permit(turns, "Waiting for other builds on this worker to end").await?;
        // Those that were built meanwhile may have taken it.
        space::make_room(self.host).await.map_err(DeployError::DiskFull)?;
        let workspace = Workspace::create(&self.host.settings.work_dir, self.job.job_id);
        let workspace = workspace.map_err(DeployError::Workspace)?;
        let built = self.fetch_and_build(workspace.path()).await;
        self.host.outside.remove(workspace).await;
        built
    }

    async fn fetch_and_build(&self, dir: &Path) -> Result<(Commit, Image), DeployError> {
        self.reach(DeploymentState::Cloning);
        self.log.say(&format!("Fetching {}", self.deploy.source.repository));
        let building = Building::begin(self.host, &self.job.job_id.to_string(), dir).await?;
        let commit = self.fetch(dir, &building).await?;
        self.log.say(&format!("Building commit {commit}"));
        let context = dir.join("source");
        let dockerfile = self.dockerfile(context.clone()).await?;
        let image = self.build(context, dockerfile, &building).await?;
        Ok((commit, image))
    }

    async fn fetch(&self, dir: &Path, building: &Building<'_, E>) -> Result<Commit, DeployError> {
        let GitSettings { allow_local, ca_file, login_dir } = self.host.settings.git.clone();
        let bounds = self.host.settings.builds.bounds;
        let fetch = Fetch {
            allow_local,
            mesh_address: self.host.settings.address,
            ca_file,
            login_dir,
            timeout: FETCH_TIMEOUT,
            group: Some(Arc::new(self.host.engine.helper_group(building.name(), bounds))),
        };
        let (source, login) = (&self.deploy.source, self.deploy.login.as_ref());
        tokio::select! {
            biased;
            fetched = self.host.outside.fetch(fetch, source, login, dir) => fetched.map_err(|error| match error {
                // git's own words for it would be no help.
                GitError::Other { .. } => building.failed_full().map_or(error.into(), DeployError::FetchDisk),
                error => error.into(),
            }),
            full = building.filled() => Err(DeployError::FetchDisk(full)),
        }
    }

    /// The repository's own Dockerfile, or the one of a preset.
    async fn dockerfile(&self, context: PathBuf) -> Result<PathBuf, DeployError> {
        if self.deploy.preset.is_none() && fs::symlink_metadata(context.join(DOCKERFILE)).is_ok() {
            return Ok(DOCKERFILE.into());
        }
        let listing = Listing::read(&context).map_err(DeployError::Workspace)?;
        let recipe = preset::recipe(&listing, self.deploy.preset)?;
        let chosen = if self.deploy.preset.is_some() { "as the app says" } else { "there is no Dockerfile" };
        self.log.say(&format!("Building as {} ({chosen}; {})", recipe.preset, recipe.because));
        preset::write(&context, &recipe).map_err(DeployError::Workspace)?;
        Ok(preset::DOCKERFILE.into())
    }

    /// Says how it ended, at the end of the log, and sends what is left of it.
    pub(crate) async fn close(self, last_words: Option<&str>) {
        if let Some(text) = last_words {
            self.log.say(text);
        }
        self.log.finish().await;
    }

    /// Waits until the attempt has taken too long; what it waits for before it begins is not its fault.
    pub(crate) async fn overdue(&self) -> DeployError {
        self.begun.notified().await;
        let deadline = Duration::from_millis(self.deploy.deadline_ms);
        sleep(deadline).await;
        DeployError::Deadline(deadline)
    }

    fn reach(&self, state: DeploymentState) {
        self.begun.notify_one();
        self.log.reach(state);
    }

    /// Waits for its turn, and says so if that is not now.
    async fn permit<'s>(
        &self,
        turns: &'s Semaphore,
        waiting: &str,
    ) -> Result<SemaphorePermit<'s>, DeployError> {
        if let Ok(permit) = turns.try_acquire() {
            return Ok(permit);
        }
        self.log.say(waiting);
        turns.acquire().await.map_err(|_| DeployError::ShuttingDown)
    }

    async fn build(
        &self,
        context: PathBuf,
        dockerfile: PathBuf,
        building: &Building<'_, E>,
    ) -> Result<Image, DeployError> {
        self.reach(DeploymentState::Building);
        let network = host::build_network();
        self.host.engine.ensure_network(&network).await?;
        let limits = self.host.settings.builds;
        let origin =
            Origin { app: self.job.app_id, job: self.job.job_id, built_at_ms: self.host.clock.now_ms() };
        let build = Build {
            name: building.name().to_owned(),
            context,
            dockerfile,
            network: network.name,
            bounds: limits.bounds,
            tag: format!("localhost/{}:{}", self.job.app, self.job.job_id),
            labels: origin.labels(),
        };
        let (output, received) = mpsc::channel(OUTPUT_LINES);
        let built = async {
            tokio::select! {
                biased;
                built = self.host.engine.build(&build, output) => {
                    built.map_err(|error| building.failed_full().map_or(error.into(), DeployError::BuildDisk))
                }
                full = building.filled() => Err(DeployError::BuildDisk(full)),
                () = sleep(limits.timeout) => Err(DeployError::BuildTimeout(limits.timeout)),
            }
        };
        let (built, ()) = tokio::join!(built, self.log.copy(received));
        built
    }

    /// Where the container listens: what its image says, if it says one thing only.
    fn port(&self, image: &Image) -> u16 {
        match image.exposed_ports[..] {
            [port] => port,
            _ => self.deploy.port,
        }
    }

    async fn start(&self, image: &Image, port: u16) -> Result<(ContainerId, SocketAddr), DeployError> {
        // What an earlier attempt at the same instance has left would hold its name.
        match self.host.remove_instance(self.job.instance_id).await {
            // One that the engine does not tell of would be told by that name.
            Ok(()) | Err(EngineError::Busy) => {}
            Err(error) => return Err(error.into()),
        }
        let network = host::app_network();
        self.host.engine.ensure_network(&network).await?;
        let addresses = self.host.free_addresses().await?;
        let mut spec = self.spec(image, port, network.name);
        if let Some(bytes) = self.deploy.limits.disk_bytes() {
            let most = written::most(bytes, self.host.engine.storage().await?.holds_disk_limits);
            spec.labels.insert(host::LABEL_DISK.to_owned(), most.to_string());
        }
        if spec.read_only {
            self.log.say("What it runs may write to /tmp only (--read-only=false lets it write elsewhere)");
        }
        for address in addresses.into_iter().take(PORT_ATTEMPTS) {
            spec.published = address;
            match self.host.engine.run(&spec).await {
                Ok(id) => return Ok((id, address)),
                Err(EngineError::PortTaken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DeployError::NoPort)
    }

    /// All but the port that it is given, and the last of its labels.
    fn spec(&self, image: &Image, port: u16, network: String) -> ContainerSpec {
        let mut labels = host::container_labels(self.job, self.deploy.deployment_id);
        if let Some(bits_per_s) = self.deploy.limits.bandwidth_bits_per_s() {
            labels.insert(host::LABEL_BANDWIDTH.to_owned(), bits_per_s.to_string());
        }
        let mut env = self.deploy.environment.clone();
        env.insert("PORT".to_owned(), port.to_string().into());
        ContainerSpec {
            name: format!("{}-{}", self.job.app, self.job.instance_id),
            image: image.id.clone(),
            limits: self.deploy.limits,
            labels,
            env,
            network,
            read_only: self.deploy.read_only.unwrap_or_else(|| host::writes_to_tmp_only(image)),
            published: SocketAddr::new(self.host.settings.address, 0),
            port,
        }
    }

    /// Before it is served; one that has ended already is told by the proof.
    async fn limit_bandwidth(&self, id: &ContainerId) -> Result<(), DeployError> {
        let container = self.host.engine.container(id).await?;
        match container.state {
            ContainerState::Running => bandwidth::limit(&container).await.map_err(DeployError::Bandwidth),
            _ => Ok(()),
        }
    }

    async fn prove(&self, id: &ContainerId, address: SocketAddr, port: u16) -> Result<(), DeployError> {
        let probe = Probe { address, path: self.deploy.health_path.clone() };
        let limit = Duration::from_millis(self.deploy.health_timeout_ms);
        tokio::select! {
            biased;
            healthy = self.host.outside.probe(&probe, limit) => healthy.map_err(|last| self.unhealthy(last, port, limit)),
            ended = self.ended(id) => Err(ended),
        }
    }

    /// Waits until what was made is on the disk. Podman waits for its lists, not for the layers that stand in them: after a
    /// loss of power in between it could not list a single container any more.
    async fn write_to_disk(&self) {
        let Ok(storage) = self.host.engine.storage().await else { return };
        if let Err(error) = self.host.outside.sync(storage.dir).await {
            tracing::warn!(error = &error as &dyn Error, "what a deploy made may not be on the disk");
        }
    }

    fn unhealthy(&self, last: Unhealthy, port: u16, waited: Duration) -> DeployError {
        DeployError::Unhealthy { last, port, path: self.deploy.health_path.clone(), waited }
    }

    /// Waits for the program to end by itself, and explains that.
    async fn ended(&self, id: &ContainerId) -> DeployError {
        loop {
            match self.host.engine.container(id).await.map(|container| container.state) {
                Ok(ContainerState::Exited { out_of_memory: true, .. }) => {
                    return DeployError::OutOfMemory { limit_bytes: self.deploy.limits.memory_bytes() };
                }
                Ok(ContainerState::Exited { code, .. }) => {
                    return DeployError::Ended { code, last_lines: Vec::new() };
                }
                Err(error @ EngineError::NoSuchContainer(_)) => return error.into(),
                // An engine that is away for a moment says nothing about the program.
                Ok(_) | Err(_) => sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// Puts what the program has said into the deploy's own log, as long as its container is there, and the last of it into the error.
    async fn with_last_words(&self, error: DeployError, id: &ContainerId) -> DeployError {
        let tail = match timeout(TAIL_PATIENCE, self.tail(id)).await {
            Ok(Ok(tail)) => tail,
            Ok(Err(unreadable)) => {
                tracing::debug!(container.id = %id, error = &unreadable as &dyn Error, "the log of a program is not readable");
                Tail::default()
            }
            Err(_) => Tail::default(),
        };
        let last_lines = tail.last_texts(LAST_LINES);
        if !last_lines.is_empty() {
            let which = if tail.is_cut() { "the last of it: all before is not kept" } else { "all of it" };
            self.log.say(&format!("What the program wrote ({which}):"));
            self.log.program(tail.into_lines());
        }
        match error {
            DeployError::Ended { code, .. } => DeployError::Ended { code, last_lines },
            error => error,
        }
    }

    async fn tail(&self, id: &ContainerId) -> Result<Tail, EngineError> {
        let (batches, mut received) = mpsc::channel::<LogBatch>(1);
        let collect = async {
            let mut tail = Tail::default();
            while let Some(batch) = received.recv().await {
                batch.lines.into_iter().for_each(|line| tail.push(line));
            }
            tail
        };
        let read = self.host.engine.log(id, LogPosition::default(), false, batches);
        let (read, tail) = tokio::join!(read, collect);
        read.map(|()| tail)
    }
}

/// The path stands in a request as it is.
fn check_health_path(path: &str) -> Result<(), DeployError> {
    let usable = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(()) } else { Err(DeployError::HealthPath(path.to_owned())) }
}
