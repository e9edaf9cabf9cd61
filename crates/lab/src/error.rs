//! Why a lab does not start, in words for whoever typed the command.

use std::{io, path::PathBuf};

use wisehosting_network::NetworkError;

use crate::{
    certificates::CertificateError, host::HostError, podman::PodmanError, ports::PortError,
    postgres::PostgresError, program::ProgramError, requirements::MissingRequirement, state::StateError,
    uplink::UplinkError,
};

/// Why a lab did not start.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The machine lacks something.
    #[error(transparent)]
    Requirement(#[from] MissingRequirement),
    /// The folder, or another lab in it.
    #[error(transparent)]
    State(#[from] StateError),
    /// A public port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The network between the hosts.
    #[error("cannot connect the hosts")]
    Underlay(#[from] NetworkError),
    /// The worker's way out.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// The worker's containers.
    #[error(transparent)]
    Podman(#[from] PodmanError),
    /// The database.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// TLS for the apps.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A program could not be started.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Keys and configuration files.
    #[error("cannot write the lab's keys and configuration files")]
    Files(#[source] io::Error),
    /// A program ended, or does not do what is waited for.
    #[error("{name} {what}. The last lines of {}:\n{}", .log.display(), .lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"))]
    NotReady {
        /// The program.
        name: &'static str,
        /// What it did or did not do.
        what: String,
        /// Its log file.
        log: PathBuf,
        /// The end of its log.
        lines: Vec<String>,
    },
}
