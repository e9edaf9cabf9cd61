//! What all jobs of a worker share: its engine, its place in the mesh, its way to the control plane.
//!
//! Invariant: containers of the platform are found by their labels alone, so a worker that was restarted knows them
//! again without a list of its own.

use crate::{
    build_log::BuildLogs,
    outbox::Outbox,
    outside::{Machine, Outside},
    restart::RestartPolicy,
    runtime_log::Answers,
    space::{Space, SpaceSettings},
};
use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, watch};
use wisehosting_containers::{
    BuildBounds, Container, ContainerList, Engine, EngineError, Image, Network, StoredImage,
};
use wisehosting_domain::id::{AppId, DeploymentId, InstanceId, JobId};
use wisehosting_node::{clock::Clock, random};
use wisehosting_protocol::payload::Job;

/// Label of a container: the app's name, for people.
const LABEL_APP: &str = "wisehosting.app";
/// Label of a container: the app's identifier. A name may come to mean another app.
pub(crate) const LABEL_APP_ID: &str = "wisehosting.app-id";
/// Label of an image: an [`Origin`]. One label only, since each is a layer to the engine.
pub(crate) const LABEL_ORIGIN: &str = "wisehosting.origin";
/// Label of an image, by its Dockerfile: `true` if what it runs writes to `/tmp` only.
pub(crate) const LABEL_READ_ONLY: &str = "wisehosting.read-only";
/// Label of a container: the deployment's identifier.
const LABEL_DEPLOYMENT: &str = "wisehosting.deployment";
/// Label of a container: the instance's identifier.
pub(crate) const LABEL_INSTANCE: &str = "wisehosting.instance";

/// Label of a container: how much it may have written to its disk before it is stopped, in bytes. None if it has no limit.
pub(crate) const LABEL_DISK: &str = "wisehosting.disk-bytes-max";
/// Label of a container: its bandwidth limit, in bits per second. None if it has no limit.
pub(crate) const LABEL_BANDWIDTH: &str = "wisehosting.bandwidth-bits-per-s";

const BUILD_NETWORK: &str = "wisehosting-build";
pub(crate) const BUILD_SUBNET: &str = "10.89.0.0/16";
const APP_NETWORK: &str = "wisehosting-apps";
pub(crate) const APP_SUBNET: &str = "10.90.0.0/16";

/// Where `RUN` steps of builds stand.
pub(crate) fn build_network() -> Network {
    Network { name: BUILD_NETWORK.to_owned(), subnet: BUILD_SUBNET.to_owned() }
}

/// Where instances stand.
pub(crate) fn app_network() -> Network {
    Network { name: APP_NETWORK.to_owned(), subnet: APP_SUBNET.to_owned() }
}

/// How this host runs apps.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// The only address at which instances are reachable.
    pub address: IpAddr,
    /// The ports that they are given there.
    pub ports: RangeInclusive<u16>,
    /// Holds repositories while they are built.
    pub work_dir: PathBuf,
    /// How repositories are fetched.
    pub git: GitSettings,
    /// What is built at a time.
    pub builds: BuildLimits,
    /// Instances that deploys start and prove at a time.
    pub starts: usize,
    /// Images of each app that are kept, the newest ones.
    pub images_kept: usize,
    /// How much of the disk stays free.
    pub space: SpaceSettings,
    /// What becomes of instances that end.
    pub restart: RestartPolicy,
}

/// How repositories are fetched.
#[derive(Clone, Debug, Default)]
pub struct GitSettings {
    /// Whether folders of this host may be deployed.
    pub allow_local: bool,
    /// Certificates of authorities that repositories' hosts are trusted by, in the place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A folder in memory, which holds a login while git uses it. Without one, the folder of the job does.
    pub login_dir: Option<PathBuf>,
}

/// How much is built at a time, and what one build may use.
#[derive(Clone, Copy, Debug)]
pub struct BuildLimits {
    /// What it may use, and how many there are at a time.
    pub bounds: BuildBounds,
    /// How long a build may take.
    pub timeout: Duration,
}

/// What all jobs share.
pub struct Host<E> {
    /// The container engine.
    pub(crate) engine: E,
    /// To the control plane.
    pub(crate) outbox: Outbox,
    /// Tells the time.
    pub(crate) clock: Arc<dyn Clock>,
    /// How apps are run.
    pub(crate) settings: HostSettings,
    /// What deploys wait for.
    pub(crate) permits: Permits,
    /// What is on its way to the control plane, and what it says of that.
    pub(crate) logs: Logs,
    /// Room on the engine's disk.
    pub(crate) space: Space,
    /// Apps that a deploy is at work for.
    deploying: Mutex<Vec<AppId>>,
    /// What deploys reach besides.
    pub(crate) outside: Arc<dyn Outside>,
}

/// What is done by so many deploys at a time. Who has one of the second kind waits for none of the first.
pub(crate) struct Permits {
    /// One per build that may run.
    pub(crate) builds: Semaphore,
    /// One per instance that may be started and proven.
    pub(crate) starts: Semaphore,
}

/// The logs of a worker.
pub(crate) struct Logs {
    /// What deployments have printed.
    pub(crate) builds: BuildLogs,
    /// What the control plane says of the logs of instances.
    pub(crate) answers: Answers,
    /// On which connection somebody listens, if somebody does.
    pub(crate) connection: watch::Sender<Option<u64>>,
    /// On which connection every instance was told of that there is.
    pub(crate) named_on: watch::Sender<Option<u64>>,
    /// How many connections there were.
    connections: AtomicU64,
}

/// A deploy is at work for an app, for as long as this value is there.
pub(crate) struct Deploying<'a> {
    apps: &'a Mutex<Vec<AppId>>,
    app: AppId,
}

impl Drop for Deploying<'_> {
    fn drop(&mut self) {
        let mut apps = lock(self.apps);
        if let Some(at) = apps.iter().position(|app| *app == self.app) {
            apps.swap_remove(at);
        }
    }
}

fn lock(apps: &Mutex<Vec<AppId>>) -> MutexGuard<'_, Vec<AppId>> {
    apps.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Engine> Host<E> {
    /// A host of these parts.
    pub fn new(engine: E, outbox: Outbox, clock: Arc<dyn Clock>, settings: HostSettings) -> Self {
        let permits = Permits {
            builds: Semaphore::new(settings.builds.bounds.at_a_time),
            starts: Semaphore::new(settings.starts),
        };
        let connection = watch::Sender::default();
        let builds_logs = BuildLogs::new(outbox.clone(), clock.clone(), connection.subscribe());
        let logs = Logs {
            builds: builds_logs,
            answers: Answers::default(),
            connection,
            named_on: watch::Sender::default(),
            connections: AtomicU64::new(0),
        };
        let (space, deploying) = Default::default();
        let outside = Arc::new(Machine);
        Self { engine, outbox, clock, settings, permits, logs, space, deploying, outside }
    }

    /// The same host in another world.
    #[must_use]
    pub fn with_outside(self, outside: impl Outside) -> Self {
        Self { outside: Arc::new(outside), ..self }
    }

    /// A connection to the control plane has begun.
    pub(crate) fn connected(&self) {
        let before = self.logs.connections.fetch_add(1, Ordering::Relaxed);
        self.logs.connection.send_replace(Some(before + 1));
    }

    /// It has ended.
    pub(crate) fn disconnected(&self) {
        self.logs.connection.send_replace(None);
    }

    /// The connection on which somebody listens, as [`Event::Connected`](wisehosting_node::channel::Event::Connected) counts them.
    pub(crate) fn connection(&self) -> Option<u64> {
        *self.logs.connection.borrow()
    }

    /// A deploy of this app begins: its images stay as they are until the answer is dropped.
    pub(crate) fn begin_deploy(&self, app: AppId) -> Deploying<'_> {
        lock(&self.deploying).push(app);
        Deploying { apps: &self.deploying, app }
    }

    /// Whether a deploy is at work for this app.
    pub(crate) fn is_deploying(&self, app: AppId) -> bool {
        lock(&self.deploying).contains(&app)
    }

    /// Addresses that no instance has, from a random one on: what was free a moment ago need not be, so the engine is the
    /// one that tells. An instance that was stopped leaves a port that its visitors may still try for a while.
    pub(crate) async fn free_addresses(&self) -> Result<Vec<SocketAddr>, EngineError> {
        let containers = self.engine.containers(LABEL_INSTANCE).await?.known();
        let taken: HashSet<u16> =
            containers.iter().filter_map(|container| container.published).map(|at| at.port()).collect();
        let mut ports: Vec<u16> = self.settings.ports.clone().collect();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place among at most 65536"
        )]
        let first = (random::fraction() * ports.len() as f64) as usize;
        let first = first.min(ports.len() - 1);
        ports.rotate_left(first);
        ports.retain(|port| !taken.contains(port));
        Ok(ports.into_iter().map(|port| SocketAddr::new(self.settings.address, port)).collect())
    }

    /// The containers of one instance: one, none, or what an attempt that was cut off has left.
    pub(crate) async fn containers_of(&self, instance: InstanceId) -> Result<ContainerList, EngineError> {
        let containers = self.engine.containers(LABEL_INSTANCE).await?;
        Ok(containers.only(|container| instance_of(container) == Some(instance)))
    }

    /// Removes the containers of an instance. Its image is kept: see [`crate::collect`].
    ///
    /// # Errors
    /// [`EngineError::Busy`] if there may be others than those that are removed.
    pub(crate) async fn remove_instance(&self, instance: InstanceId) -> Result<(), EngineError> {
        self.remove_all(self.containers_of(instance).await?).await
    }

    /// Removes these containers.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if there may be others.
    pub(crate) async fn remove_all(&self, containers: ContainerList) -> Result<(), EngineError> {
        for container in containers.clone().known() {
            self.engine.remove(&container.id).await?;
        }
        containers.whole().map(drop)
    }

    /// Removes what a deploy has made: the instance's containers, and the job's image.
    pub(crate) async fn undo_deploy(&self, job: JobId, instance: InstanceId) -> Result<(), EngineError> {
        self.remove_instance(instance).await?;
        self.remove_image_of(job).await
    }

    /// Removes the image that a job has built, unless a container uses it.
    async fn remove_image_of(&self, job: JobId) -> Result<(), EngineError> {
        for image in self.engine.images(LABEL_ORIGIN).await? {
            if Origin::of(&image).is_some_and(|origin| origin.job == job) {
                self.engine.remove_image(&image.id).await?;
            }
        }
        Ok(())
    }
}

/// Where an image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Whose it is.
    pub(crate) app: AppId,
    /// What built it.
    pub(crate) job: JobId,
    /// When that began, in milliseconds since the Unix epoch.
    pub(crate) built_at_ms: u64,
}

impl Origin {
    /// What the label of an image says; none if it is not one of ours.
    pub(crate) fn of(image: &StoredImage) -> Option<Self> {
        let mut words = image.labels.get(LABEL_ORIGIN)?.split(' ');
        let (app, job) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { app, job, built_at_ms: words.next()?.parse().ok()? })
    }

    /// The labels of an image that comes from here.
    pub(crate) fn labels(self) -> BTreeMap<String, String> {
        let Self { app, job, built_at_ms } = self;
        BTreeMap::from([(LABEL_ORIGIN.to_owned(), format!("{app} {job} {built_at_ms}"))])
    }
}

/// Whether the program of an image is known to write to `/tmp` only.
pub(crate) fn writes_to_tmp_only(image: &Image) -> bool {
    image.labels.get(LABEL_READ_ONLY).is_some_and(|value| value == "true")
}

/// The labels of a container.
pub(crate) fn container_labels(job: &Job, deployment: DeploymentId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_APP.to_owned(), job.app.to_string()),
        (LABEL_APP_ID.to_owned(), job.app_id.to_string()),
        (LABEL_DEPLOYMENT.to_owned(), deployment.to_string()),
        (LABEL_INSTANCE.to_owned(), job.instance_id.to_string()),
    ])
}

/// The instance that a container belongs to.
pub(crate) fn instance_of(container: &Container) -> Option<InstanceId> {
    container.labels.get(LABEL_INSTANCE)?.parse().ok()
}
