//! The message types, one enum per direction.
//!
//! A type belongs to one direction ([`ErrorReport`] to both), so an envelope that is sent back to its author is
//! refused even if everything else about it were right.

use crate::{
    envelope::object,
    payload::{
        AppStats, AppStatus, BuildLog, Certificate, CertificateGet, CertificateOrder, Certificates,
        ChallengesShown, ErrorReport, Heartbeat, Job, JobRef, JobResult, JobStatus, MeshPeers, MeshStatus,
        Register, Registered, Routes, RoutesAck, RoutesDrained, RuntimeLog, RuntimeLogAck, Violation,
    },
};
use serde::Serialize;

/// What becomes of a message that has to wait until the connection takes it. No queue grows without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queueing {
    /// It gives way to no other: who sends it waits for room, or learns that there is none. The hub does not wait; it ends
    /// the connection, and begins the next one with what is still true.
    Kept,
    /// Only the newest of its type is worth something: it takes the place of one that still waits, and the end of the
    /// connection is the end of it.
    Latest,
    /// As [`Kept`](Self::Kept), but it leaves half of the queue to the others.
    Bulk,
}

/// A direction's messages: their names on the wire and their payloads, as which they are written.
pub trait Message: Serialize + Sized {
    /// The names of all its types on the wire.
    const KINDS: &[&str];

    /// The type's name on the wire.
    fn kind(&self) -> &'static str;

    /// What becomes of it while it waits.
    fn queueing(&self) -> Queueing;

    /// The message of this name with this payload, which is JSON.
    ///
    /// # Errors
    /// The direction has no such type, or the payload is not one of its.
    fn decode(kind: &str, payload: &str) -> Result<Self, DecodeError>;
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
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident($payload:ty) = $kind:literal, $queueing:ident;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum $name { $($(#[$vdoc])* $variant($payload),)* }

        impl Message for $name {
            const KINDS: &[&str] = &[$($kind,)*];

            fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            fn queueing(&self) -> Queueing {
                match self { $(Self::$variant(_) => Queueing::$queueing,)* }
            }

            fn decode(kind: &str, payload: &str) -> Result<Self, DecodeError> {
                match kind {
                    $($kind => object(payload)
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
        Register(Register) = "register", Kept;
        /// Alive.
        Heartbeat(Heartbeat) = "heartbeat", Latest;
        /// A job arrived.
        JobAck(JobRef) = "job_ack", Kept;
        /// A job reached a step.
        JobStatus(JobStatus) = "job_status", Kept;
        /// A job ended.
        JobResult(JobResult) = "job_result", Kept;
        /// What an instance is doing.
        AppStatus(AppStatus) = "app_status", Kept;
        /// An instance broke a limit.
        Violation(Violation) = "violation", Kept;
        /// What an instance wrote.
        RuntimeLog(RuntimeLog) = "runtime_log", Bulk;
        /// What a build wrote.
        BuildLog(BuildLog) = "build_log", Bulk;
        /// What instances use.
        AppStats(AppStats) = "app_stats", Latest;
        /// A table is in force.
        RoutesAck(RoutesAck) = "routes_ack", Latest;
        /// Older tables have no requests left.
        RoutesDrained(RoutesDrained) = "routes_drained", Latest;
        /// Keep this certificate.
        Certificate(Certificate) = "certificate", Kept;
        /// Give me a certificate.
        CertificateGet(CertificateGet) = "certificate_get", Kept;
        /// An order of a certificate reached a step.
        CertificateOrder(CertificateOrder) = "certificate_order", Kept;
        /// These challenges are shown.
        ChallengesShown(ChallengesShown) = "challenges_shown", Latest;
        /// What the mesh looks like from here.
        MeshStatus(MeshStatus) = "mesh_status", Latest;
        /// A message could not be used.
        Error(ErrorReport) = "error", Kept;
    }
}

messages! {
    /// What the hub sends.
    HubMessage {
        /// Welcome.
        Registered(Registered) = "registered", Kept;
        /// Do this.
        Job(Job) = "job", Kept;
        /// Stop doing that.
        JobCancel(JobCancel) = "job_cancel", Kept;
        /// A result is stored.
        ResultAck(ResultAck) = "result_ack", Kept;
        /// So much of an instance's log is stored.
        RuntimeLogAck(RuntimeLogAck) = "runtime_log_ack", Kept;
        /// Serve this table.
        Routes(Routes) = "routes", Latest;
        /// What is known of certificates.
        Certificates(Certificates) = "certificates", Latest;
        /// Keep this certificate.
        Certificate(Certificate) = "certificate", Kept;
        /// Speak with these nodes.
        MeshPeers(MeshPeers) = "mesh_peers", Latest;
        /// A message could not be used.
        Error(ErrorReport) = "error", Kept;
    }
}
