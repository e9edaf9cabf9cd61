//! What a starting lab tells about itself; whoever starts it decides how to show it.

use serde::Serialize;

/// A step of the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Removing what a killed lab left.
    CleanUp,
    /// Namespaces and the network between them.
    Hosts,
    /// The private Postgres.
    Database,
    /// The worker's container engine, its way out and its base image.
    Containers,
    /// The control plane answers.
    ControlPlane,
    /// The worker is connected.
    Worker,
    /// The proxy is connected.
    Proxy,
}

impl Step {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::CleanUp => "clean-up",
            Self::Hosts => "hosts",
            Self::Database => "database",
            Self::Containers => "containers",
            Self::ControlPlane => "control plane",
            Self::Worker => "worker",
            Self::Proxy => "proxy",
        }
    }
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A step has begun.
    Begun {
        /// Which.
        step: Step,
    },
    /// A step is done.
    Done {
        /// Which.
        step: Step,
        /// How long it took.
        took_ms: u64,
        /// What came of it, for people.
        detail: String,
    },
}
