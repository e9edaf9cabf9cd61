//! What all jobs of a worker share: its engine, its place in the mesh, its way to the control plane.
//!
//! Invariant: containers of the platform are found by their labels alone, so a worker that was restarted knows them
//! again without a list of its own.

use crate::outbox::Outbox;
use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::Semaphore;
use wisehosting_containers::{Container, Engine, EngineError, ImageId, Network};
use wisehosting_domain::id::InstanceId;
use wisehosting_node::{clock::Clock, random};

/// Label of an image and of a container: the app's name.
pub(crate) const LABEL_APP: &str = "wisehosting.app";
/// Label of a container: the deployment's identifier.
pub(crate) const LABEL_DEPLOYMENT: &str = "wisehosting.deployment";
/// Label of a container: the instance's identifier.
pub(crate) const LABEL_INSTANCE: &str = "wisehosting.instance";

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
    /// Whether folders of this host may be deployed.
    pub allow_local_repositories: bool,
    /// Builds at a time.
    pub builds: usize,
    /// Memory of one build step, in bytes.
    pub build_memory_bytes: u64,
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
    /// One permit per build that may run.
    pub(crate) builds: Semaphore,
}

impl<E: Engine> Host<E> {
    /// A host of these parts.
    pub fn new(engine: E, outbox: Outbox, clock: Arc<dyn Clock>, settings: HostSettings) -> Self {
        let builds = Semaphore::new(settings.builds);
        Self { engine, outbox, clock, settings, builds }
    }

    /// An address that is probably free; the engine tells if it is not.
    pub(crate) fn random_address(&self) -> SocketAddr {
        let (low, high) = (*self.settings.ports.start(), *self.settings.ports.end());
        let offset = random::fraction() * (f64::from(high - low) + 1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below the length of the range"
        )]
        let port = low + (offset as u16).min(high - low);
        SocketAddr::new(self.settings.address, port)
    }

    /// The containers of one instance: one, none, or what an attempt that was cut off has left.
    pub(crate) async fn containers_of(&self, instance: InstanceId) -> Result<Vec<Container>, EngineError> {
        let mut containers = self.engine.containers(LABEL_INSTANCE).await?;
        containers.retain(|container| instance_of(container) == Some(instance));
        Ok(containers)
    }

    /// Removes what there is of an instance: its containers and the images that only they used.
    pub(crate) async fn remove_instance(&self, instance: InstanceId) -> Result<(), EngineError> {
        for image in self.remove_containers(instance).await? {
            self.engine.remove_image(&image).await?;
        }
        Ok(())
    }

    /// Removes images of builds that no container was made of. Not while a job is at work: its image may be one of them.
    pub(crate) async fn remove_unused_images(&self) -> Result<(), EngineError> {
        for image in self.engine.images(LABEL_APP).await? {
            // One that a container uses is left as it is.
            self.engine.remove_image(&image).await?;
        }
        Ok(())
    }

    /// Removes the containers of an instance and says which images they ran.
    pub(crate) async fn remove_containers(&self, instance: InstanceId) -> Result<Vec<ImageId>, EngineError> {
        let mut images = Vec::new();
        for container in self.containers_of(instance).await? {
            self.engine.remove(&container.id).await?;
            images.push(container.image);
        }
        Ok(images)
    }
}

/// The instance that a container belongs to.
pub(crate) fn instance_of(container: &Container) -> Option<InstanceId> {
    container.labels.get(LABEL_INSTANCE)?.parse().ok()
}
