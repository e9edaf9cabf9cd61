//! The real engine: Podman, over its Docker-compatible API on a unix socket.
//!
//! Invariants: every container drops all capabilities but the few named here, can never gain one, is bounded in memory,
//! processor time, processes and log size, and is reachable from outside at its one published address only. The socket
//! is opened anew for each operation, so an engine that was restarted is simply used again.

mod answers;
mod bridge;
mod build;
mod build_cgroup;
mod build_slice;
mod cgroups;
mod context;
mod disk_limits;
mod helper_group;
mod list;
mod logs;
mod written;

pub use cgroups::{Cgroups, ContainerUsage};
pub use helper_group::HelperGroup;

use crate::{
    engine::{
        BaseImage, Build, BuildBounds, BuildError, Container, ContainerId, ContainerList, ContainerSpec,
        Engine, EngineError, Image, ImageId, Network, Storage, StoredImage,
    },
    log::{LogBatch, LogPosition},
};
use answers::Failure;
use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{
        ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, Ipam, IpamConfig,
        NetworkCreateRequest, PortBinding,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
        ListContainersOptionsBuilder, ListImagesOptionsBuilder, PruneImagesOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder, StartContainerOptions,
        StopContainerOptionsBuilder,
    },
};
use build_cgroup::BuildCgroup;
use disk_limits::DiskLimits;
use futures_util::StreamExt;
use std::{collections::HashMap, fmt::Write, path::PathBuf, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, OnceCell, mpsc, oneshot},
    task::spawn_blocking,
};
use written::Count;

/// Longer than any operation takes to begin to answer, a stop with its grace included.
const ANSWER_TIMEOUT_S: u64 = 900;
/// What is kept of a container's output. Older lines are dropped by the engine.
const LOG_BYTES_MAX: &str = "10mb";
/// What an image's entry point needs to prepare its folders and step down to its own user. Nothing else is given, and
/// what is dropped on the way cannot be had back.
const CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];

/// Podman behind its API socket.
#[derive(Clone, Debug)]
pub struct Podman {
    socket: PathBuf,
    build_slice: String,
    builds: build_cgroup::Live,
    rotations: logs::Rotations,
    inspected: list::Inspected,
    /// Where its images are, and how limits are held there, once that is known. It takes Podman a second to describe itself.
    storage: Arc<OnceCell<(PathBuf, Option<DiskLimits>)>>,
}

impl Podman {
    /// The engine whose socket has this path. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let build_slice = build_slice::NAME.to_owned();
        let (builds, rotations, inspected, storage) = Default::default();
        Self { socket: socket.into(), build_slice, builds, rotations, inspected, storage }
    }

    /// The same with another name for the control group above its builds, for when it is not the only one of its host.
    #[must_use]
    pub fn with_build_slice(self, name: String) -> Self {
        Self { build_slice: name, ..self }
    }

    /// Whether the engine answers.
    ///
    /// # Errors
    /// [`EngineError::Away`] if not.
    pub async fn ping(&self) -> Result<(), EngineError> {
        let answer = self.docker()?.ping().await;
        answer.map(drop).map_err(|e| self.failure("answer a ping", e).into())
    }

    fn docker(&self) -> Result<Docker, EngineError> {
        let path = self.socket.to_string_lossy();
        Docker::connect_with_unix(&path, ANSWER_TIMEOUT_S, API_DEFAULT_VERSION)
            .map_err(|e| self.failure("connect", e).into())
    }

    fn failure(&self, operation: &'static str, error: bollard::errors::Error) -> Failure {
        answers::failure(operation, &self.socket, error)
    }

    async fn inspect(&self, id: &ContainerId) -> Result<ContainerInspectResponse, EngineError> {
        let found = self.docker()?.inspect_container(id.as_str(), None::<InspectContainerOptions>).await;
        let found = answers::with_stopped_as_exited(found);
        found.map_err(|e| self.failure("inspect a container", e).about(id).into())
    }

    /// Creates a container. Podman goes on with one that nobody waits for any more: that is removed again.
    async fn created(&self, docker: &Docker, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let (told, created) = oneshot::channel();
        let (podman, docker, spec) = (self.clone(), docker.clone(), spec.clone());
        tokio::spawn(async move {
            let Err(Ok(id)) = told.send(podman.create(&docker, &spec).await) else { return };
            if let Err(error) = podman.remove_if_there(&docker, &id).await {
                tracing::warn!(container = %id, %error, "a container that nobody waits for is left behind");
            }
        });
        created.await.unwrap_or_else(|_| {
            let message = "nobody knows how it went".to_owned();
            Err(EngineError::Refused { operation: "create a container", message })
        })
    }

    async fn create(&self, docker: &Docker, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
        let mut body = create_body(spec);
        if let (Some(bytes), Some(config)) = (spec.limits.disk_bytes(), &mut body.host_config) {
            config.storage_opt = self.storage_options(docker, &spec.image, bytes).await?;
        }
        let created = docker.create_container(Some(options), body).await;
        match created.map_err(|e| self.failure("create a container", e)) {
            Ok(created) => Ok(ContainerId::new(created.id)),
            Err(failure) if failure.is_missing() => Err(EngineError::NoSuchImage(spec.image.clone())),
            Err(failure) => Err(failure.into()),
        }
    }

    /// What has the file system hold a limit on what a container writes; none where it cannot.
    async fn storage_options(
        &self,
        docker: &Docker,
        image: &ImageId,
        bytes: u64,
    ) -> Result<Option<HashMap<String, String>>, EngineError> {
        let size = match self.storage_and_limits(docker).await?.1 {
            None => return Ok(None),
            Some(DiskLimits::Written) => bytes,
            Some(DiskLimits::WithImage) => {
                let found = docker.inspect_image(image.as_str()).await;
                let found = found.map_err(|e| self.failure("inspect an image", e))?;
                bytes.saturating_add(found.size.and_then(|size| size.try_into().ok()).unwrap_or(0))
            }
        };
        Ok(Some(HashMap::from([("size".to_owned(), size.to_string())])))
    }

    /// The folder with images and containers, and how a limit on what a container writes is held there.
    async fn storage_and_limits(
        &self,
        docker: &Docker,
    ) -> Result<(PathBuf, Option<DiskLimits>), EngineError> {
        let described = self.storage.get_or_try_init(async || {
            let info = docker.info().await.map_err(|e| self.failure("describe itself", e))?;
            let dir = info.docker_root_dir.map(PathBuf::from).ok_or_else(|| EngineError::Refused {
                operation: "describe itself",
                message: "it did not say where it keeps images".to_owned(),
            })?;
            let limits = DiskLimits::of(info.driver.as_deref().unwrap_or_default(), &dir);
            Ok::<_, EngineError>((dir, limits))
        });
        described.await.cloned()
    }

    /// What containers have written above their images, as the engine counts it.
    async fn layer_bytes(&self, label: &str) -> Result<HashMap<ContainerId, u64>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).size(true).filters(&filters).build();
        let listed = self.docker()?.list_containers(Some(options)).await;
        let listed = answers::with_stopped_as_exited(listed)
            .map_err(|e| self.failure("count what containers have written", e))?;
        Ok(listed.into_iter().filter_map(answers::written_bytes).collect())
    }

    async fn remove_if_there(&self, docker: &Docker, id: &ContainerId) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match docker.remove_container(id.as_str(), Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) => self.failure("remove a container", error).unless(Failure::is_missing),
        }
    }
}

impl Engine for Podman {
    async fn ensure_network(&self, network: &Network) -> Result<(), EngineError> {
        bridge::announce_changes();
        let docker = self.docker()?;
        let find = || docker.inspect_network(&network.name, None);
        match find().await.map_err(|e| self.failure("inspect a network", e)) {
            Ok(_) => return Ok(()),
            Err(failure) if failure.is_missing() => {}
            Err(failure) => return Err(failure.into()),
        }
        let created = docker.create_network(network_request(network)).await;
        match created.map_err(|e| self.failure("create a network", e)) {
            // Somebody was quicker; Podman has more than one way to say so.
            Err(_) if find().await.is_ok() => Ok(()),
            Err(failure) => Err(failure.into()),
            Ok(_) => Ok(()),
        }
    }

    async fn build(&self, build: &Build, log: mpsc::Sender<String>) -> Result<Image, BuildError> {
        build::run(self, build, log).await
    }

    fn end_build(&self, name: &str) {
        drop(BuildCgroup::left_by(&self.build_slice, &self.builds, name));
    }

    fn helper_group(&self, build: &str, bounds: BuildBounds) -> HelperGroup {
        HelperGroup::new(&self.build_slice, &self.builds, build, bounds)
    }

    fn build_written_bytes(&self, name: &str) -> u64 {
        build_slice::written_bytes(&self.build_slice, name)
    }

    async fn image(&self, id: &ImageId) -> Result<Option<Image>, EngineError> {
        let found = self.docker()?.inspect_image(id.as_str()).await;
        match found.map_err(|e| self.failure("inspect an image", e)) {
            Ok(found) => Ok(Some(answers::image(id, found))),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn remove_image(&self, id: &ImageId) -> Result<(), EngineError> {
        let options = RemoveImageOptionsBuilder::new().build();
        match self.docker()?.remove_image(id.as_str(), Some(options), None).await {
            Ok(_) => Ok(()),
            Err(error) => self.failure("remove an image", error).unless(Failure::is_missing_or_conflict),
        }
    }

    async fn images(&self, label: &str) -> Result<Vec<StoredImage>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let listed = self.docker()?.list_images(Some(options)).await;
        let listed = listed.map_err(|e| self.failure("list images", e))?;
        Ok(listed.into_iter().map(answers::stored_image).collect())
    }

    async fn base_images(&self) -> Result<Vec<BaseImage>, EngineError> {
        let listed =
            self.docker()?.list_images(Some(ListImagesOptionsBuilder::new().all(true).build())).await;
        Ok(answers::base_images(&listed.map_err(|e| self.failure("list images", e))?))
    }

    async fn run(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let docker = self.docker()?;
        let id = self.created(&docker, spec).await?;
        let Err(error) = docker.start_container(id.as_str(), None::<StartContainerOptions>).await else {
            return Ok(id);
        };
        let error = self.failure("start a container", error).of_start(spec);
        if let Err(removal) = self.remove_if_there(&docker, &id).await {
            tracing::warn!(container = %id, error = %removal, "a container that did not start is left behind");
        }
        Err(error)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        match self.docker()?.start_container(id.as_str(), None::<StartContainerOptions>).await {
            Ok(()) => Ok(()),
            Err(error) => self.failure("start a container", error).about(id).unless(Failure::is_already_so),
        }
    }

    async fn container(&self, id: &ContainerId) -> Result<Container, EngineError> {
        self.inspect(id).await.map(answers::container)
    }

    async fn containers(&self, label: &str) -> Result<ContainerList, EngineError> {
        list::containers(self, label).await
    }

    async fn written_bytes(&self, label: &str) -> Result<HashMap<ContainerId, u64>, EngineError> {
        let places = list::places(self, label).await?;
        let count = || places.into_iter().map(|(id, places)| (id, places.count())).collect();
        let counted: HashMap<ContainerId, Count> = spawn_blocking(count).await.map_err(|error| {
            EngineError::Refused { operation: "have its containers counted", message: error.to_string() }
        })?;
        let layers = if counted.values().all(|count| count.layer.is_some()) {
            HashMap::new()
        } else {
            self.layer_bytes(label).await?
        };
        let total = |(id, count): (ContainerId, Count)| {
            let layer = count.layer.or_else(|| layers.get(&id).copied())?;
            Some((id, layer.saturating_add(count.volumes)))
        };
        Ok(counted.into_iter().filter_map(total).collect())
    }

    async fn storage(&self) -> Result<Storage, EngineError> {
        let (dir, limits) = self.storage_and_limits(&self.docker()?).await?;
        Ok(Storage { dir, holds_disk_limits: limits.is_some() })
    }

    async fn remove_old_layers(&self, age: Duration) -> Result<(), EngineError> {
        let until = format!("{}s", age.as_secs());
        let filters = HashMap::from([("dangling", vec!["true"]), ("until", vec![until.as_str()])]);
        let options = PruneImagesOptionsBuilder::new().filters(&filters).build();
        let pruned = self.docker()?.prune_images(Some(options)).await;
        pruned.map(drop).map_err(|e| self.failure("remove old layers", e).into())
    }

    async fn events(&self, label: &str, changed: &Notify) -> Result<(), EngineError> {
        // Podman can look for a label with its value only.
        let filters = HashMap::from([("type", vec!["container"])]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let docker = self.docker()?;
        let mut events = pin!(docker.events(Some(options)));
        while let Some(event) = events.next().await {
            let event = event.map_err(|e| self.failure("tell its events", e))?;
            let labels = event.actor.and_then(|container| container.attributes);
            if labels.is_some_and(|labels| labels.contains_key(label)) {
                changed.notify_one();
            }
        }
        Ok(())
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let seconds = i32::try_from(grace.as_millis().div_ceil(1_000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        match self.docker()?.stop_container(id.as_str(), Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) => self.failure("stop a container", error).about(id).unless(Failure::is_already_so),
        }
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.remove_if_there(&self.docker()?, id).await
    }

    async fn log(
        &self,
        id: &ContainerId,
        from: LogPosition,
        follow: bool,
        batches: mpsc::Sender<LogBatch>,
    ) -> Result<(), EngineError> {
        logs::run(self, id, from, follow, batches).await
    }
}

fn network_request(network: &Network) -> NetworkCreateRequest {
    let pool = IpamConfig { subnet: Some(network.subnet.clone()), ..IpamConfig::default() };
    NetworkCreateRequest {
        name: network.name.clone(),
        driver: Some("bridge".to_owned()),
        // Containers of other networks cannot connect to those of this one, nor the other way round.
        options: Some(HashMap::from([("isolate".to_owned(), "true".to_owned())])),
        ipam: Some(Ipam { config: Some(vec![pool]), ..Ipam::default() }),
        ..NetworkCreateRequest::default()
    }
}

fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(spec.image.to_string()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        exposed_ports: Some(vec![container_port(spec)]),
        host_config: Some(host_config(spec)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec) -> HostConfig {
    let memory = i64::try_from(spec.limits.memory_bytes()).unwrap_or(i64::MAX);
    let binding = PortBinding {
        host_ip: Some(spec.published.ip().to_string()),
        host_port: Some(spec.published.port().to_string()),
    };
    HostConfig {
        memory: Some(memory),
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(spec.limits.cpu_millis()) * 1_000_000),
        pids_limit: Some(i64::from(spec.limits.pids())),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // Ports below 1024 are the container's own affair: they exist in its network namespace only.
        sysctls: Some(HashMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())])),
        network_mode: Some(spec.network.clone()),
        port_bindings: Some(HashMap::from([(container_port(spec), Some(vec![binding]))])),
        log_config: Some(HostConfigLogConfig {
            typ: Some("k8s-file".to_owned()),
            config: Some(HashMap::from([("max-size".to_owned(), LOG_BYTES_MAX.to_owned())])),
        }),
        readonly_rootfs: Some(spec.read_only),
        tmpfs: spec
            .read_only
            .then(|| HashMap::from([("/tmp".to_owned(), "rw,nosuid,nodev,mode=1777".to_owned())])),
        init: Some(false),
        ..HostConfig::default()
    }
}

fn container_port(spec: &ContainerSpec) -> String {
    format!("{}/tcp", spec.port)
}

/// Text as a part of an address.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
