//! The message types, one enum per direction.
//!
//! A type belongs to one direction ([`ErrorReport`] to both), so an envelope that is sent back to its author is
//! refused even if everything else about it were right.

use crate::payload::{
    AppStats, AppStatus, BuildLog, ErrorReport, Heartbeat, Job, JobRef, JobResult, JobStatus, Register,
    Registered, Routes, RoutesAck, RoutesDrained, RuntimeLog, Violation,
};
use serde_json::value::{RawValue, to_raw_value};

/// A direction's messages: their names on the wire and their payloads.
pub trait Message: Sized {
    /// The names of all its types on the wire.
    const KINDS: &[&str];

    /// The type's name on the wire.
    fn kind(&self) -> &'static str;

    /// The payload as JSON.
    fn payload(&self) -> Box<RawValue>;

    /// The message of this name with this payload.
    ///
    /// # Errors
    /// The direction has no such type, or the payload is not one of its.
    fn decode(kind: &str, payload: &RawValue) -> Result<Self, DecodeError>;
}

/// Why a payload is refused.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No message of this direction has this name.
    #[error("message type {0:?} is unknown in this direction")]
    UnknownType(String),
    /// The payload has a field too many, too few, or of another type.
    #[error("the payload of a {kind} message is malformed")]
    Payload {
        /// The message type.
        kind: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident($payload:ty) = $kind:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name { $($(#[$vdoc])* $variant($payload),)* }

        impl Message for $name {
            const KINDS: &[&str] = &[$($kind,)*];

            fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            fn payload(&self) -> Box<RawValue> {
                match self { $(Self::$variant(payload) => to_raw_value(payload),)* }
                    .expect("payloads have text keys and finite numbers only")
            }

            fn decode(kind: &str, payload: &RawValue) -> Result<Self, DecodeError> {
                match kind {
                    $($kind => serde_json::from_str(payload.get())
                        .map(Self::$variant)
                        .map_err(|source| DecodeError::Payload { kind: $kind, source }),)*
                    _ => Err(DecodeError::UnknownType(kind.to_owned())),
                }
            }
        }

        $(impl From<$payload> for $name {
            fn from(payload: $payload) -> Self {
                Self::$variant(payload)
            }
        })*
    };
}

/// The hub's payloads that share the shape of [`JobRef`], told apart by type.
macro_rules! job_ref {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub JobRef);
    )*};
}

job_ref!(
    /// The result of a job is stored.
    ResultAck,
    /// A job is called off.
    JobCancel
);

messages! {
    /// What an agent sends.
    AgentMessage {
        /// Who speaks.
        Register(Register) = "register",
        /// Alive.
        Heartbeat(Heartbeat) = "heartbeat",
        /// A job arrived.
        JobAck(JobRef) = "job_ack",
        /// A job reached a step.
        JobStatus(JobStatus) = "job_status",
        /// A job ended.
        JobResult(JobResult) = "job_result",
        /// What an instance is doing.
        AppStatus(AppStatus) = "app_status",
        /// An instance broke a limit.
        Violation(Violation) = "violation",
        /// What an instance wrote.
        RuntimeLog(RuntimeLog) = "runtime_log",
        /// What a build wrote.
        BuildLog(BuildLog) = "build_log",
        /// What instances use.
        AppStats(AppStats) = "app_stats",
        /// A table is in force.
        RoutesAck(RoutesAck) = "routes_ack",
        /// Older tables have no requests left.
        RoutesDrained(RoutesDrained) = "routes_drained",
        /// A message could not be used.
        Error(ErrorReport) = "error",
    }
}

messages! {
    /// What the hub sends.
    HubMessage {
        /// Welcome.
        Registered(Registered) = "registered",
        /// Do this.
        Job(Job) = "job",
        /// Stop doing that.
        JobCancel(JobCancel) = "job_cancel",
        /// A result is stored.
        ResultAck(ResultAck) = "result_ack",
        /// Serve this table.
        Routes(Routes) = "routes",
        /// A message could not be used.
        Error(ErrorReport) = "error",
    }
}
