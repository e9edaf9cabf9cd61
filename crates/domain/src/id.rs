//! Identifiers: one type per kind of thing, so that an instance is never taken for a deployment.
//!
//! An identifier is made at the edge of the program and passed in; nothing here creates one.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A person who owns apps.
    UserId
);
id!(
    /// An app: a name, a source and the settings that its deployments copy.
    AppId
);
id!(
    /// One immutable attempt to bring one commit of an app into service.
    DeploymentId
);
id!(
    /// One container of a deployment, on one worker.
    InstanceId
);
id!(
    /// One piece of work given to one worker.
    JobId
);
