//! Why a command did not do what it was asked, and the exit status that says so.

use std::{io, path::PathBuf};

use serde_json::{Value, json};
use wisehosting_lab::{LabError, state::StateError};

use crate::answers::Problem;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A deployment did not come into service.
    #[error("{0}")]
    Failed(String),
    /// Arguments that do not fit together or name nothing.
    #[error("{0}")]
    Usage(String),
    /// The control plane said no.
    #[error("{}", .0.message)]
    Refused(Problem),
    /// The control plane does not know the token.
    #[error("{}", .0.message)]
    NotSignedIn(Problem),
    /// No control plane is known.
    #[error("no control plane is known")]
    NoServer,
    /// A lab runs on this machine, and what it says about itself cannot be read.
    #[error("the lab of this machine is not ready, or only root may use it")]
    LabOfRoot,
    /// It cannot be reached.
    #[error("the control plane at {server} cannot be reached")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// It answered, but not with what was asked for.
    #[error("the control plane at {server} failed: {message}")]
    ServerFailed {
        /// Its address.
        server: String,
        /// What it said.
        message: String,
    },
    /// The user, or the system, wanted it to end.
    #[error("interrupted")]
    Interrupted,
    /// A file.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
}

impl From<StateError> for CliError {
    fn from(error: StateError) -> Self {
        Self::Lab(error.into())
    }
}

impl CliError {
    /// What the process ends with; `wisehosting --help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Lab(LabError::State(StateError::NotALab(_))) => 2,
            Self::Refused(_) => 3,
            Self::Unreachable { .. } | Self::ServerFailed { .. } | Self::NoServer => 4,
            Self::NotSignedIn(_) | Self::LabOfRoot => 5,
            Self::Lab(LabError::Requirement(_) | LabError::Port(_)) => 6,
            Self::Lab(LabError::State(StateError::Running(_) | StateError::Busy(_))) => 7,
            Self::Interrupted => 130,
            Self::Failed(_) | Self::File { .. } | Self::Lab(_) => 1,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(problem) | Self::NotSignedIn(problem) => problem.hint.clone(),
            Self::NoServer => Some(
                "Start a lab (wisehosting up), or name a control plane: --server URL, with a token in the file that \
                 WISEHOSTING_TOKEN_FILE names."
                    .to_owned(),
            ),
            Self::LabOfRoot => Some("Type sudo in front of the command, or wait until `up` says that it is ready.".to_owned()),
            Self::Lab(LabError::State(StateError::Running(running))) => Some(format!(
                "Its apps: http://<name>.localhost:{}. To end it: wisehosting down. A second one needs a folder of its \
                 own: --state-dir.",
                running.http_port
            )),
            _ => None,
        }
    }

    /// The same for programs.
    pub(crate) fn to_json(&self) -> Value {
        let code = match self {
            Self::Refused(problem) | Self::NotSignedIn(problem) => problem.code.as_str(),
            Self::LabOfRoot => "lab_of_root",
            Self::Failed(_) => "failed",
            Self::Interrupted => "interrupted",
            Self::Usage(_) => "usage",
            Self::Unreachable { .. } | Self::NoServer => "unreachable",
            Self::ServerFailed { .. } => "server_failed",
            Self::File { .. } => "file",
            Self::Lab(_) => "lab",
        };
        json!({ "error": { "code": code, "message": self.whole_message(), "hint": self.hint() } })
    }

    /// The message and everything behind it.
    pub(crate) fn whole_message(&self) -> String {
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        message
    }
}
