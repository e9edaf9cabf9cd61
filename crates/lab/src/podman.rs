//! The worker's container engine: a private Podman in the worker's host, and images put into its store.

use std::{io, path::PathBuf};

use tokio::net::UnixStream;
use wisehosting_containers::service::{HardLimits, Service, ServiceError};

use crate::{
    busybox,
    error::LabError,
    host::Host,
    launch,
    program::{Program, ProgramSpec},
};

/// Where the engine listens, in its host.
pub(crate) const SOCKET: &str = "/run/podman/podman.sock";

/// Why the worker has no containers.
#[derive(Debug, thiserror::Error)]
pub enum PodmanError {
    /// Its settings could not be written.
    #[error("cannot prepare the worker's Podman")]
    Prepare(#[from] ServiceError),
    /// The busybox that the base image is made from.
    #[error("cannot read the machine's busybox")]
    Read(#[source] io::Error),
    /// It does not take an image.
    #[error("the worker's Podman did not take the image {image}: {reason}")]
    Import {
        /// Name of the image.
        image: String,
        /// What it answered.
        reason: String,
    },
}

/// Starts the engine and waits until it answers.
pub(crate) async fn start(host: &Host, log: PathBuf) -> Result<Program, LabError> {
    std::fs::create_dir_all(host.path("/run/podman")).map_err(LabError::Files)?;
    let service = Service {
        state_dir: host.directory().join("podman"),
        socket: SOCKET.into(),
        hard_limits: HardLimits::of_this_process().map_err(PodmanError::from)?,
        driver: None,
    };
    let command = service.prepare().map_err(PodmanError::from)?;
    let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
    let spec = ProgramSpec {
        name: "podman",
        executable: command.program.into(),
        arguments: command.args.iter().map(|argument| text(argument)).collect(),
        environment: command.env.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect(),
        user: None,
        sockets: Vec::new(),
        log,
    };
    let mut program = Program::start(host, spec)?;
    let socket = host.path(SOCKET);
    let answers = async || UnixStream::connect(&socket).await.is_ok();
    launch::wait_until(&mut program, "does not answer", answers).await?;
    Ok(program)
}

/// Puts the machine's busybox into the store as the image that first Dockerfiles begin with.
pub(crate) async fn import_busybox(host: &Host) -> Result<(), PodmanError> {
    let busybox = busybox::find().ok_or_else(|| PodmanError::Read(io::ErrorKind::NotFound.into()))?;
    let archive = busybox::root_file_system(&busybox).map_err(PodmanError::Read)?;
    import(host, busybox::IMAGE, archive).await
}

async fn import(host: &Host, image: &str, archive: Vec<u8>) -> Result<(), PodmanError> {
    let failed = |reason: String| PodmanError::Import { image: image.to_owned(), reason };
    wisehosting_node::tls::install_provider();
    let client = reqwest::Client::builder()
        .unix_socket(host.path(SOCKET))
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let response = client
        .post(format!("http://podman/v4.0.0/libpod/images/import?reference={image}"))
        .header("content-type", "application/x-tar")
        .body(archive)
        .send()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if response.status().is_success() {
        return Ok(());
    }
    Err(failed(response.text().await.unwrap_or_default()))
}
