//! What the platform asks of a container engine, in plain data.
//!
//! Invariant: an operation either does all of what it says or leaves nothing behind that did not exist before.

use crate::{
    log::{LogBatch, LogPosition},
    podman::HelperGroup,
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};
use tokio::sync::{Notify, mpsc};
use wisehosting_domain::{limits::Limits, secret::Secret};

macro_rules! engine_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// An identifier as the engine gave it out.
            #[must_use]
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

engine_id!(
    /// The engine's identifier of an image, `sha256:…`: it names the content, so it never means another image later.
    ImageId
);
engine_id!(
    /// The engine's identifier of a container.
    ContainerId
);

/// A bridge network with names resolved by the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its addresses, such as `10.89.0.0/16`.
    pub subnet: String,
}

/// An image to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Tells it from all other builds on this machine.
    pub name: String,
    /// The folder that is sent to the engine. A `.dockerignore` in it is honoured.
    pub context: PathBuf,
    /// The Dockerfile, relative to `context`.
    pub dockerfile: PathBuf,
    /// The network in which `RUN` steps run.
    pub network: String,
    /// What it may use.
    pub bounds: BuildBounds,
    /// What the image is called, such as `localhost/hello:1`: one without a name counts as a leftover of a build.
    pub tag: String,
    /// To be found again by.
    pub labels: BTreeMap<String, String>,
}

/// What builds may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildBounds {
    /// Memory of each step, in bytes. Swap is not added to it.
    pub memory_bytes: u64,
    /// Processor time of each step, in thousandths of a core. Where it is scarce, containers come first.
    pub cpu_millis: u32,
    /// Processes and threads of each step.
    pub processes_max: u32,
    /// Builds that run at a time. All of them together have as much as so many have by themselves.
    pub at_a_time: usize,
}

/// An image that the engine has, in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Its identifier.
    pub id: ImageId,
    /// As they were given when it was built.
    pub labels: BTreeMap<String, String>,
}

/// An image that others can be made of, such as one that a build has pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// Its identifier.
    pub id: ImageId,
    /// Whether another image, a layer that a build has left, or a container is made of it.
    pub in_use: bool,
}

/// An image that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its identifier.
    pub id: ImageId,
    /// Those that its Dockerfile and its build have given it.
    pub labels: BTreeMap<String, String>,
    /// TCP ports that its Dockerfile exposes, ascending.
    pub exposed_ports: Vec<u16>,
}

/// A container to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name; no two containers share one.
    pub name: String,
    /// What it runs.
    pub image: ImageId,
    /// What it may use.
    pub limits: Limits,
    /// To be found again by.
    pub labels: BTreeMap<String, String>,
    /// Added to the image's environment.
    pub env: BTreeMap<String, Secret>,
    /// The network it stands in.
    pub network: String,
    /// Whether it may write to `/tmp` only, which is kept in its memory.
    pub read_only: bool,
    /// The only address at which it is reachable from outside that network.
    pub published: SocketAddr,
    /// The port inside the container that `published` leads to.
    pub port: u16,
}

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not yet started.
    Created,
    /// Its program runs.
    Running,
    /// Its program ended.
    Exited {
        /// What it returned; 128 + n if signal n ended it.
        code: i64,
        /// Whether the kernel ended it for using too much memory.
        out_of_memory: bool,
    },
}

/// A container that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its identifier.
    pub id: ContainerId,
    /// The image it was made of.
    pub image: ImageId,
    /// As they were given when it was made.
    pub labels: BTreeMap<String, String>,
    /// How it is now.
    pub state: ContainerState,
    /// Where it is reachable.
    pub published: Option<SocketAddr>,
    /// The file that stands for its network namespace, while it runs.
    pub network_namespace: Option<PathBuf>,
}

/// The containers that the engine tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerList {
    /// All that there are.
    Whole(Vec<Container>),
    /// Those that were known, each as it is or as it was when it was last seen: the engine is at work on one at least, and
    /// says nothing of the others meanwhile. Of one that is missing here nothing is known.
    Partial(Vec<Container>),
}

impl ContainerList {
    /// Those that are told of.
    #[must_use]
    pub fn known(self) -> Vec<Container> {
        match self {
            Self::Whole(containers) | Self::Partial(containers) => containers,
        }
    }

    /// All that there are.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if there may be others.
    pub fn whole(self) -> Result<Vec<Container>, EngineError> {
        match self {
            Self::Whole(containers) => Ok(containers),
            Self::Partial(_) => Err(EngineError::Busy),
        }
    }

    /// Whether there are no others.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// The list of those alone for which this holds.
    #[must_use]
    pub fn only(self, wanted: impl Fn(&Container) -> bool) -> Self {
        let only = |containers: Vec<Container>| containers.into_iter().filter(wanted).collect();
        match self {
            Self::Whole(containers) => Self::Whole(only(containers)),
            Self::Partial(containers) => Self::Partial(only(containers)),
        }
    }
}

/// Where the engine keeps images and containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The folder.
    pub dir: PathBuf,
    /// Whether its file system keeps a container from writing more than its limit.
    pub holds_disk_limits: bool,
}

/// Why the engine did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody answers on the socket.
    #[error("Podman's socket {} does not answer: start it with systemctl start podman.socket", .socket.display())]
    Away {
        /// The path of the socket.
        socket: PathBuf,
        /// What the connection said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It is at work on a container for long, and does not say which others there are.
    #[error("Podman is at work on another container and says nothing of the others: try again in a minute")]
    Busy,
    /// Another program or container holds the address.
    #[error("{0} is taken on this host")]
    PortTaken(SocketAddr),
    /// The image is gone or never was.
    #[error("there is no image {0}")]
    NoSuchImage(ImageId),
    /// The container is gone or never was.
    #[error("there is no container {0}")]
    NoSuchContainer(ContainerId),
    /// The program that the image names cannot be started.
    #[error("the container's program does not start: {0}")]
    Program(String),
    /// Anything else.
    #[error("Podman refused to {operation}: {message}")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// The engine's own words.
        message: String,
    },
}

impl EngineError {
    /// Whether the engine has said nothing to what was asked: it may answer later.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Busy)
    }
}

/// Longest piece of a Dockerfile in a message.
const STEP_CHARS_MAX: usize = 300;

/// A step may go over many lines.
fn shortened(step: &str) -> Cow<'_, str> {
    match step.char_indices().nth(STEP_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &step[..end]).into(),
        None => step.into(),
    }
}

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step of the Dockerfile failed.
    #[error("the build failed at {}: {cause}", shortened(step))]
    Step {
        /// The line of the Dockerfile.
        step: String,
        /// The engine's own words.
        cause: String,
    },
    /// A step used more memory than a build has.
    #[error("{} used more than the {} MiB of memory that a build has", shortened(step), .limit_bytes / (1024 * 1024))]
    OutOfMemory {
        /// The line of the Dockerfile.
        step: String,
        /// What it may use.
        limit_bytes: u64,
    },
    /// A step started more processes than a build has.
    #[error("{} started more than the {limit} processes that a build has", shortened(step))]
    TooManyProcesses {
        /// The line of the Dockerfile.
        step: String,
        /// How many it may have.
        limit: u32,
    },
    /// A step found the disk full.
    #[error("{} found no space left on the worker's disk", shortened(step))]
    NoSpace {
        /// The line of the Dockerfile.
        step: String,
    },
    /// The Dockerfile or its base image is not usable.
    #[error("the build failed: {0}")]
    Failed(String),
    /// The Dockerfile is missing, or is not a file inside the context.
    #[error("{} is not a file of the repository", .0.display())]
    Dockerfile(PathBuf),
    /// The context could not be read.
    #[error("reading the build context")]
    Context(#[source] io::Error),
    /// The engine did not take the build.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A container engine on this host.
///
/// Log lines go into bounded channels: a receiver that does not read holds the operation up, one that is gone ends the
/// transfer of lines, which is the end of reading a container's log, but not of a build.
pub trait Engine: Send + Sync + 'static {
    /// Makes the network if it is not there yet.
    fn ensure_network(&self, network: &Network) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Builds an image. Each line of output goes to `log` as it comes. A build whose future is dropped is ended.
    fn build(
        &self,
        build: &Build,
        log: mpsc::Sender<String>,
    ) -> impl Future<Output = Result<Image, BuildError>> + Send;

    /// Ends what still runs of a build whose program was killed. Nothing happens if it left nothing.
    fn end_build(&self, name: &str);

    /// A control group for a program that works for a build before that begins, with as much memory and as many processes as a
    /// step of the build. It is the build's own: drop it before that begins. [`Self::end_build`] ends what is in it, too.
    fn helper_group(&self, build: &str, bounds: BuildBounds) -> HelperGroup;

    /// What the steps of a build that runs, or a program in its helper group, have written to disks so far, in bytes; 0 where the kernel does not count it. What
    /// the engine itself writes, when it pulls or copies something for a build, nobody counts for it.
    fn build_written_bytes(&self, name: &str) -> u64;

    /// What the engine knows of an image; none if it has no such image.
    fn image(&self, id: &ImageId) -> impl Future<Output = Result<Option<Image>, EngineError>> + Send;

    /// Removes an image. One that is gone or still used by a container is left as it is.
    fn remove_image(&self, id: &ImageId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// All images that were built with a label of this name, also those that no container uses.
    fn images(&self, label: &str) -> impl Future<Output = Result<Vec<StoredImage>, EngineError>> + Send;

    /// All images that were not made on this host and have a name.
    fn base_images(&self) -> impl Future<Output = Result<Vec<BaseImage>, EngineError>> + Send;

    /// Makes a container and starts it; if it does not start, it is not there afterwards. The engine does not start it
    /// again when its program ends.
    fn run(&self, spec: &ContainerSpec) -> impl Future<Output = Result<ContainerId, EngineError>> + Send;

    /// Starts a container again whose program has ended. Nothing happens if it runs.
    fn start(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// What the engine knows of a container.
    fn container(&self, id: &ContainerId) -> impl Future<Output = Result<Container, EngineError>> + Send;

    /// All containers, running or not, that carry a label of this name.
    fn containers(&self, label: &str) -> impl Future<Output = Result<ContainerList, EngineError>> + Send;

    /// What each container that carries a label of this name has written to its own disk and not removed, in bytes. It is
    /// counted file by file: not a question for every second.
    fn written_bytes(
        &self,
        label: &str,
    ) -> impl Future<Output = Result<HashMap<ContainerId, u64>, EngineError>> + Send;

    /// Where the engine keeps images and containers, and what it can do there.
    fn storage(&self) -> impl Future<Output = Result<Storage, EngineError>> + Send;

    /// Removes layers that no image with a name is made of, nor any container, and that are older than this: they are what
    /// builds left to be faster the next time. Not while a build runs, which may be about to use one.
    fn remove_old_layers(&self, age: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Tells `changed` that one of the containers that carry a label of this name was started, ended or was removed, each
    /// time that it happens. Returns when the engine goes away; what happens after that is not told.
    fn events(&self, label: &str, changed: &Notify) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Asks the program to end and ends it after `grace`. Nothing happens if it has ended already.
    fn stop(&self, id: &ContainerId, grace: Duration)
    -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Ends and removes a container with its anonymous volumes. One that is gone is no error.
    fn remove(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Sends what a container has written from a position on; returns after the last. With `follow` that is when its
    /// program has ended, and a container that is removed meanwhile is read to its end. Only one at a time may follow a
    /// container.
    fn log(
        &self,
        id: &ContainerId,
        from: LogPosition,
        follow: bool,
        batches: mpsc::Sender<LogBatch>,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;
}
