//! The states of deployments, instances and jobs, as they stand in the database and in the API.
//!
//! A state that [`is_final`](DeploymentState::is_final) is never left again.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A text that is none of a state's names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state")]
pub struct UnknownState(pub String);

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the database and on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownState;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($text => Ok(Self::$variant),)* _ => Err(UnknownState(text.to_owned())) }
            }
        }
    };
}

text_enum! {
    /// How far a deployment is.
    DeploymentState {
        /// Waits for a worker.
        Queued = "queued",
        /// The worker fetches the source.
        Cloning = "cloning",
        /// The image is being built.
        Building = "building",
        /// The container is being started.
        Starting = "starting",
        /// The container runs and is being probed.
        Checking = "checking",
        /// The instance is healthy; the edges are being told.
        Routing = "routing",
        /// The edges serve it.
        Live = "live",
        /// A newer deployment took its place.
        Superseded = "superseded",
        /// Its app was stopped.
        Stopped = "stopped",
        /// It never came into service.
        Failed = "failed",
        /// Somebody called it off.
        Cancelled = "cancelled",
    }
}

impl DeploymentState {
    /// Whether nothing will change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Superseded | Self::Stopped | Self::Failed | Self::Cancelled)
    }

    /// Whether it may still come into service.
    #[must_use]
    pub fn is_in_progress(self) -> bool {
        !self.is_final() && self != Self::Live
    }

    /// Whether a worker still has to finish its part.
    #[must_use]
    pub fn is_with_worker(self) -> bool {
        self.is_in_progress() && self != Self::Routing
    }

    /// Whether a deployment in this state may go on to `next`: steps may be skipped, never repeated.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match next {
            Self::Superseded | Self::Stopped => matches!(self, Self::Routing | Self::Live),
            Self::Failed | Self::Cancelled => self.is_in_progress(),
            _ => !self.is_final() && (self as u8) < (next as u8),
        }
    }
}

text_enum! {
    /// How far an instance is.
    InstanceState {
        /// Given to a worker, not yet proven healthy.
        Starting = "starting",
        /// Proven healthy; may be routed to.
        Healthy = "healthy",
        /// No longer routed to; its last requests may still be running.
        Draining = "draining",
        /// A stop job is on its way.
        Stopping = "stopping",
        /// Its container is gone.
        Stopped = "stopped",
        /// It never became healthy.
        Failed = "failed",
    }
}

impl InstanceState {
    /// Whether the instance counts against the capacity of its worker.
    #[must_use]
    pub fn occupies_worker(self) -> bool {
        !matches!(self, Self::Stopped | Self::Failed)
    }
}

text_enum! {
    /// A limit that an instance broke; its worker keeps it from running from then on.
    ViolationKind {
        /// The kernel ended it for using more memory than it may.
        OutOfMemory = "out_of_memory",
        /// It wrote more to its disk than it may.
        DiskQuota = "disk_quota",
        /// It ended soon after its start again and again.
        CrashLoop = "crash_loop",
    }
}

text_enum! {
    /// What a job does.
    JobKind {
        /// Clone, build, start and prove one instance.
        Deploy = "deploy",
        /// Stop and remove one instance.
        Stop = "stop",
        /// Remove all that one worker has of an app.
        Delete = "delete",
    }
}

text_enum! {
    /// How far a job is.
    JobState {
        /// Waits for a worker.
        Pending = "pending",
        /// A worker holds its lease.
        Running = "running",
        /// Done.
        Succeeded = "succeeded",
        /// Ended with an error, or its worker was lost.
        Failed = "failed",
        /// Called off.
        Cancelled = "cancelled",
    }
}

impl JobState {
    /// Whether the job has its outcome.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for state in DeploymentState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        for kind in ViolationKind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("a text"), kind.as_str());
        }
        assert_eq!("gone".parse::<InstanceState>(), Err(UnknownState("gone".to_owned())));
    }

    #[test]
    fn a_deployment_never_goes_back() {
        use DeploymentState::*;
        for (from, to, allowed) in [
            (Queued, Cloning, true),
            (Queued, Routing, true),
            (Building, Cloning, false),
            (Building, Building, false),
            (Routing, Live, true),
            (Live, Failed, false),
            (Live, Superseded, true),
            (Checking, Superseded, false),
            (Routing, Superseded, true),
            (Live, Stopped, true),
            (Building, Stopped, false),
            (Stopped, Live, false),
            (Cancelled, Routing, false),
            (Failed, Live, false),
        ] {
            assert_eq!(from.may_become(to), allowed, "{from} to {to}");
        }
    }
}
