//! What Podman answers, turned into the platform's own words.
//!
//! Invariant: whether an error means "away", "missing" or "taken" is decided here and nowhere else.

use super::written::Places;
use crate::engine::{
    BaseImage, Container, ContainerId, ContainerSpec, ContainerState, EngineError, Image, ImageId,
    StoredImage,
};
use bollard::{
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerState as EngineState, ContainerStateStatusEnum as Status,
        ContainerSummary, HostConfig, ImageInspect, ImageSummary,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

/// An operation that failed, not yet named by what it was about.
pub(super) struct Failure {
    status: Option<u16>,
    error: EngineError,
}

/// Sorts an error of the client library.
pub(super) fn failure(operation: &'static str, socket: &Path, error: Error) -> Failure {
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            Failure { status: Some(status_code), error: EngineError::Refused { operation, message } }
        }
        Error::DockerStreamError { error } => {
            Failure { status: Some(200), error: EngineError::Refused { operation, message: error } }
        }
        Error::JsonDataError { message, .. } => {
            Failure { status: Some(200), error: not_understood(operation, &message) }
        }
        other => {
            let error = EngineError::Away { socket: socket.to_owned(), source: Box::new(other) };
            Failure { status: None, error }
        }
    }
}

/// An answer that is not what was asked for.
pub(super) fn not_understood(operation: &'static str, why: &impl fmt::Display) -> EngineError {
    EngineError::Refused { operation, message: format!("its answer was not understood: {why}") }
}

/// What Podman's own API answered with an error: `{"message": …}`.
pub(super) fn refused(operation: &'static str, body: &[u8]) -> EngineError {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let message = serde_json::from_slice::<Refusal>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |refusal| refusal.message);
    EngineError::Refused { operation, message }
}

impl Failure {
    /// What the operation was about is not there. Of a container that goes away meanwhile, Podman says so in words only.
    pub(super) fn is_missing(&self) -> bool {
        let message = match &self.error {
            EngineError::Refused { message, .. } => message.as_str(),
            _ => "",
        };
        self.status == Some(404) || message.ends_with("no such container")
    }

    /// Something is there already, or is in use.
    pub(super) fn is_conflict(&self) -> bool {
        self.status == Some(409)
    }

    pub(super) fn is_missing_or_conflict(&self) -> bool {
        self.is_missing() || self.is_conflict()
    }

    /// The thing is already as it was asked to be.
    pub(super) fn is_already_so(&self) -> bool {
        self.status == Some(304)
    }

    /// Success where the failure only says that there was nothing to do.
    pub(super) fn unless(self, harmless: fn(&Self) -> bool) -> Result<(), EngineError> {
        if harmless(&self) { Ok(()) } else { Err(self.error) }
    }

    /// The same, knowing which container it was about.
    pub(super) fn about(mut self, id: &ContainerId) -> Self {
        if self.is_missing() {
            self.error = EngineError::NoSuchContainer(id.clone());
        }
        self
    }

    /// The same, knowing which container was to be started.
    pub(super) fn of_start(self, spec: &ContainerSpec) -> EngineError {
        let EngineError::Refused { operation, message } = self.error else { return self.error };
        if message.contains("address already in use") {
            EngineError::PortTaken(spec.published)
        } else if let Some(cause) = program_failure(&message) {
            EngineError::Program(cause.to_owned())
        } else {
            EngineError::Refused { operation, message }
        }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// The part of a runtime's message that says why a program cannot be started.
fn program_failure(message: &str) -> Option<&str> {
    let at = message.find("exec: ").or_else(|| message.find("executable file"))?;
    message.get(at..).map(|cause| cause.trim_start_matches("exec: ").trim_end_matches([':', ' ']))
}

/// Between the end of a program and the end of its clean-up, Podman names a state that Docker's API does not have.
pub(super) fn with_stopped_as_exited<T: DeserializeOwned>(answer: Result<T, Error>) -> Result<T, Error> {
    let Err(Error::JsonDataError { contents, .. }) = &answer else { return answer };
    let contents = contents
        .replace("\"Status\":\"stopped\"", "\"Status\":\"exited\"")
        .replace("\"State\":\"stopped\"", "\"State\":\"exited\"");
    match serde_json::from_str(&contents) {
        Ok(understood) => Ok(understood),
        Err(_) => answer,
    }
}

pub(super) fn image(id: &ImageId, found: ImageInspect) -> Image {
    let config = found.config.unwrap_or_default();
    let exposed = config.exposed_ports.unwrap_or_default();
    let mut exposed_ports: Vec<u16> = exposed
        .iter()
        .filter_map(|port| match port.split_once('/') {
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
            None => port.parse().ok(),
        })
        .collect();
    exposed_ports.sort_unstable();
    exposed_ports.dedup();
    Image {
        id: found.id.map_or_else(|| id.clone(), ImageId::new),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        exposed_ports,
    }
}

pub(super) fn stored_image(found: ImageSummary) -> StoredImage {
    StoredImage { id: ImageId::new(found.id), labels: found.labels.into_iter().collect() }
}

/// Of all images, those with a name that none has which was made here.
pub(super) fn base_images(all: &[ImageSummary]) -> Vec<BaseImage> {
    let plain = |id: &str| id.trim_start_matches("sha256:").to_owned();
    let parents: HashSet<String> = all.iter().map(|image| plain(&image.parent_id)).collect();
    let is_base = |image: &&ImageSummary| {
        !image.repo_tags.is_empty() && !image.repo_tags.iter().any(|name| name.starts_with("localhost/"))
    };
    let base = |image: &ImageSummary| BaseImage {
        id: ImageId::new(&image.id),
        in_use: image.containers > 0 || parents.contains(&plain(&image.id)),
    };
    all.iter().filter(is_base).map(base).collect()
}

pub(super) fn container(found: ContainerInspectResponse) -> Container {
    Container {
        id: ContainerId::new(found.id.unwrap_or_default()),
        image: ImageId::new(found.image.unwrap_or_default()),
        labels: found.config.and_then(|config| config.labels).unwrap_or_default().into_iter().collect(),
        state: found.state.as_ref().map_or(ContainerState::Created, state),
        published: found.host_config.as_ref().and_then(published),
        network_namespace: found
            .network_settings
            .and_then(|network| network.sandbox_key)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
    }
}

/// Where a container has what it has written. All volumes are of its image: it is given none by name.
pub(super) fn places(found: &ContainerInspectResponse) -> Places {
    let storage = found.graph_driver.as_ref().filter(|storage| storage.name == "overlay");
    let layer = storage.and_then(|storage| storage.data.get("UpperDir")).map(PathBuf::from);
    let mounts = found.mounts.iter().flatten();
    let volumes = mounts.filter(|mount| mount.typ.as_deref() == Some("volume"));
    Places { layer, volumes: volumes.filter_map(|mount| mount.source.as_ref()).map(PathBuf::from).collect() }
}

/// A container and what it has written.
pub(super) fn written_bytes(found: ContainerSummary) -> Option<(ContainerId, u64)> {
    Some((ContainerId::new(found.id?), u64::try_from(found.size_rw?).ok()?))
}

fn state(state: &EngineState) -> ContainerState {
    match state.status {
        Some(Status::RUNNING | Status::PAUSED | Status::STOPPING) => ContainerState::Running,
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => ContainerState::Exited {
            code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
        },
        _ => ContainerState::Created,
    }
}

fn published(config: &HostConfig) -> Option<SocketAddr> {
    let bindings = config.port_bindings.as_ref()?.values().flatten().flatten();
    bindings.into_iter().find_map(|binding| {
        let ip: IpAddr = binding.host_ip.as_deref()?.parse().ok()?;
        let port = binding.host_port.as_deref()?.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_ports_count() {
        let config = bollard::models::ImageConfig {
            exposed_ports: Some(vec!["8080/tcp".to_owned(), "53/udp".to_owned(), "80".to_owned()]),
            ..Default::default()
        };
        let found = ImageInspect { config: Some(config), ..Default::default() };
        assert_eq!(image(&ImageId::new("x"), found).exposed_ports, [80, 8080]);
    }

    #[test]
    fn a_container_that_goes_away_meanwhile_is_missing() {
        let refused = |message: &str| {
            let error = Error::DockerResponseServerError { status_code: 500, message: message.to_owned() };
            failure("inspect a container", Path::new("podman.sock"), error)
        };
        assert!(refused("container b0da does not exist in database: no such container").is_missing());
        assert!(!refused("container b0da is in use").is_missing());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let message = "runc: runc create failed: unable to start container process: exec: \"/nope\": \
                       stat /nope: no such file or directory: OCI runtime attempted to invoke a command";
        assert!(program_failure(message).expect("cause").starts_with("\"/nope\": stat /nope: no such file"));
    }
}
