//! The payloads. Unknown fields are refused in all of them. A field that may be null may be left out, too, and both mean
//! the same.

mod certificates;

pub use certificates::{
    Certificate, CertificateGet, CertificateOrder, Certificates, ChallengesShown, Order, OrderStep, Validity,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Unexpected},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId, JobId},
    limits::Limits,
    login::Login,
    name::Label,
    preset::Preset,
    routes::RouteTable,
    secret::Secret,
    source::{Commit, Source},
    state::{DeploymentState, JobKind, ViolationKind},
    usage::Usage,
};

/// Agent to hub, first message: who speaks, and what it still has from before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Version of the agent program.
    pub version: String,
    /// The worker's capacity; none for an edge.
    pub capacity: Option<Capacity>,
    /// Jobs that the agent still works on, and those whose results it does not know to be stored.
    pub running_jobs: Vec<JobId>,
}

/// What a worker can give to instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Memory.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u32,
}

/// Hub to agent, answer to [`Register`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// Version of the control plane.
    pub version: String,
    /// How often the hub wants a heartbeat.
    pub heartbeat_interval_ms: u64,
}

/// Worker to hub: alive, how used, and which leases to extend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Memory in use on the whole host.
    pub memory_bytes_used: u64,
    /// Processor time in use on the whole host, in thousandths of a core.
    pub cpu_millis_used: u32,
    /// Instances that run and that no job is at work on; none until all instances were named on this connection.
    pub instances: Option<u32>,
    /// As in [`Register`].
    pub running_jobs: Vec<JobId>,
}

/// Hub to worker: do this. Sent again after a reconnect until acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Which job.
    pub job_id: JobId,
    /// Whose; jobs of one app run in order.
    pub app_id: AppId,
    /// The app's name.
    pub app: Label,
    /// The instance that it is about.
    pub instance_id: InstanceId,
    /// What to do.
    pub work: Work,
}

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Bring an instance up and prove it healthy.
    Deploy(Box<Deploy>),
    /// Stop and remove an instance.
    Stop(Stop),
    /// Remove all that the worker has of the app: containers, images, logs. The instance is the last one that it had.
    #[serde(deserialize_with = "no_fields")]
    Delete,
}

impl Work {
    /// The kind of the job in the database.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Deploy(_) => JobKind::Deploy,
            Self::Stop(_) => JobKind::Stop,
            Self::Delete => JobKind::Delete,
        }
    }
}

/// All that a deploy needs: the deployment's snapshot of the app's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// Which deployment.
    pub deployment_id: DeploymentId,
    /// What to build.
    pub source: Source,
    /// The login for its repository, if that is private.
    pub login: Option<Login>,
    /// An image that was built of this commit before. If the worker still has it, nothing is built.
    pub image_id: Option<String>,
    /// How to build it; if none, by its Dockerfile, or, without one, as what it looks like.
    pub preset: Option<Preset>,
    /// What the container may use.
    pub limits: Limits,
    /// Where the container listens, unless its image exposes exactly one port.
    pub port: u16,
    /// Path of the health probe.
    pub health_path: String,
    /// How long the container may take to become healthy.
    pub health_timeout_ms: u64,
    /// How long the job may take from its first [`JobStatus`] on; it may have to wait before that.
    pub deadline_ms: u64,
    /// Whether the container may write to `/tmp` only, which is kept in its memory; if none, where its preset needs no more.
    pub read_only: Option<bool>,
    /// Environment of the container.
    pub environment: BTreeMap<String, Secret>,
}

/// How to stop an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Time between SIGTERM and SIGKILL.
    pub grace_ms: u64,
}

/// A job by its id: the worker has it (`job_ack`), the hub has its result (`result_ack`), or it is called off (`job_cancel`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRef {
    /// Which job.
    pub job_id: JobId,
}

/// Worker to hub: a deploy job reached a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobStatus {
    /// Which job.
    pub job_id: JobId,
    /// Cloning, building, starting or checking.
    #[serde(deserialize_with = "step")]
    pub state: DeploymentState,
    /// When, by the worker's clock: milliseconds since the Unix epoch.
    pub observed_at_ms: u64,
}

/// A state that a worker brings a deployment into.
fn step<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DeploymentState, D::Error> {
    let state = DeploymentState::deserialize(deserializer)?;
    if state.is_with_worker() && state != DeploymentState::Queued {
        Ok(state)
    } else {
        Err(Error::invalid_value(Unexpected::Str(state.as_str()), &"a step of a deploy"))
    }
}

/// Worker to hub: how a job ended. Sent again after a reconnect until `result_ack`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobResult {
    /// Which job.
    pub job_id: JobId,
    /// The instance that it was about.
    pub instance_id: InstanceId,
    /// How it ended.
    pub outcome: Outcome,
    /// When, by the worker's clock: milliseconds since the Unix epoch.
    pub observed_at_ms: u64,
}

/// As much of a sentence about a failure, a limit or an error as the hub keeps, in characters.
pub const MESSAGE_CHARS_MAX: usize = 2_000;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// A deploy: the instance runs and is healthy.
    Deployed {
        /// What was built.
        commit: Commit,
        /// The image, by its content.
        image_id: String,
        /// Where the instance listens, inside the mesh.
        address: SocketAddr,
    },
    /// A stop: the instance is gone.
    #[serde(deserialize_with = "no_fields")]
    Stopped,
    /// A delete: the worker has nothing of the app.
    #[serde(deserialize_with = "no_fields")]
    Deleted,
    /// It failed; what it had made was removed.
    Failed {
        /// One sentence for the app's owner, saying what to do.
        message: String,
    },
    /// It was called off; what it had made was removed.
    #[serde(deserialize_with = "no_fields")]
    Cancelled,
}

/// For a variant without fields beside its tag, in which serde would ignore unknown ones.
fn no_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}
    NoFields::deserialize(deserializer).map(|NoFields {}| ())
}

/// Worker to hub: what an instance is doing now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppStatus {
    /// Which instance.
    pub instance_id: InstanceId,
    /// Whether its container runs.
    pub running: bool,
    /// Exit status of the last run, if it ended.
    pub exit_code: Option<i64>,
    /// Whether it has not run for half a minute, or is kept from running because it broke a limit.
    pub stopped: bool,
    /// When, by the worker's clock: milliseconds since the Unix epoch.
    pub observed_at_ms: u64,
}

/// Worker to hub: an instance broke a limit and is kept from running. Sent again after a reconnect for as long as that is so;
/// one that was told before is known by its instance and its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Violation {
    /// Which instance.
    pub instance_id: InstanceId,
    /// Which limit.
    pub kind: ViolationKind,
    /// What happened and what to do, for the app's owner.
    pub message: String,
    /// When, by the worker's clock: milliseconds since the Unix epoch.
    pub observed_at_ms: u64,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// When: RFC 3339 with nanoseconds.
    pub at: String,
    /// Where it was written.
    pub stream: Stream,
    /// The line without its end.
    pub text: String,
}

/// Where a log line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The platform itself.
    System,
}

/// Worker to hub: what an instance wrote. Sent again after a reconnect until [`RuntimeLogAck`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeLog {
    /// Which instance.
    pub instance_id: InstanceId,
    /// Where in its log the lines begin: the cursor of the message before; none at the beginning.
    #[serde(default, deserialize_with = "cursor")]
    pub after: Option<String>,
    /// Where they end, in words of the worker's own, [`CURSOR_BYTES_MAX`] at most. None in a message that only asks how far
    /// the hub has come.
    #[serde(default, deserialize_with = "cursor")]
    pub cursor: Option<String>,
    /// In order; [`LINES_MAX`] at most.
    #[serde(deserialize_with = "lines")]
    pub lines: Vec<LogLine>,
}

/// Longest cursor of a [`RuntimeLog`].
pub const CURSOR_BYTES_MAX: usize = 64 * 1024;
/// Most lines of one message.
pub const LINES_MAX: usize = 4_096;

fn cursor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let cursor = Option::<String>::deserialize(deserializer)?;
    match cursor.as_ref().map(String::len) {
        Some(bytes) if bytes > CURSOR_BYTES_MAX => {
            Err(Error::invalid_length(bytes, &"a cursor of 65536 bytes at most"))
        }
        _ => Ok(cursor),
    }
}

fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<LogLine>, D::Error> {
    let lines = Vec::deserialize(deserializer)?;
    if lines.len() <= LINES_MAX {
        Ok(lines)
    } else {
        Err(Error::invalid_length(lines.len(), &"4096 lines at most"))
    }
}

/// Hub to worker, answer to [`RuntimeLog`]: how much of an instance's log is stored. What the message held is, if this is
/// its cursor, and is not otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeLogAck {
    /// Which instance.
    pub instance_id: InstanceId,
    /// The cursor of the last message that was stored; none if there was none.
    #[serde(default, deserialize_with = "cursor")]
    pub cursor: Option<String>,
}

/// Worker to hub: the log of a deployment's build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildLog {
    /// Which deployment.
    pub deployment_id: DeploymentId,
    /// Number of the first line within the deployment's log, from 0; a line seen before is dropped by its number.
    pub first_line: u64,
    /// In order; [`LINES_MAX`] at most.
    #[serde(deserialize_with = "lines")]
    pub lines: Vec<LogLine>,
}

/// Worker to hub: what the instances use, and what of the host a heartbeat does not say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppStats {
    /// When it was read, by the worker's clock: milliseconds since the Unix epoch.
    pub observed_at_ms: u64,
    /// The host.
    pub host: HostStats,
    /// One entry per running instance.
    pub instances: Vec<InstanceStats>,
}

/// What a worker's host uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostStats {
    /// Size of the file system that holds images and containers; 0 if it cannot be told.
    pub disk_bytes: u64,
    /// How much of it is in use.
    pub disk_bytes_used: u64,
    /// How much of it the worker wants to be free before it builds.
    pub disk_bytes_wanted: u64,
    /// Whether it keeps an instance from writing more than its limit; else the worker stops one that has.
    pub disk_limits_held: bool,
    /// What came in over the mesh since its interface was made; 0 if it cannot be told.
    pub mesh_received_bytes: u64,
    /// What went out there.
    pub mesh_sent_bytes: u64,
}

/// What one instance uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceStats {
    /// Which instance.
    pub instance_id: InstanceId,
    /// What it uses.
    pub usage: Usage,
}

/// Hub to edge: serve this table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    /// All routes.
    pub table: RouteTable,
}

/// Edge to hub: requests that arrive from now on are served by this generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesAck {
    /// Which table.
    pub generation: u64,
    /// Upstreams of it that the edge could not reach; where that left a host name without any, the edge keeps serving
    /// what it served before.
    pub problems: Vec<RouteProblem>,
}

/// An upstream that an edge cannot reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteProblem {
    /// Which instance.
    pub instance_id: InstanceId,
    /// Why, in a few words.
    pub message: String,
}

/// Edge to hub: no request that began on an older table is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesDrained {
    /// The oldest table that still has requests, or the one in force.
    pub generation: u64,
}

/// Hub to agent: the nodes that this one speaks with, beside those that its own configuration declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshPeers {
    /// Grows with every change.
    pub generation: u64,
    /// WireGuard public key of the control plane, in base64: by it goes what cannot go directly.
    pub hub: String,
    /// The key that the control plane changes to, in base64.
    pub next_hub: Option<String>,
    /// All of them.
    pub peers: Vec<MeshPeer>,
}

/// A node of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshPeer {
    /// Its name.
    pub name: Label,
    /// Its WireGuard public key, in base64.
    pub public_key: String,
    /// Its address inside the mesh.
    pub address: IpAddr,
    /// Where it was last heard from; none if nobody knows.
    pub endpoint: Option<SocketAddr>,
}

/// Agent to hub: what it sees of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshStatus {
    /// The generation of the [`MeshPeers`] in force; none before the first.
    pub generation: Option<u64>,
    /// Largest packet inside its tunnels, in bytes.
    pub mtu: u32,
    /// Its ways to others.
    pub links: Vec<MeshLink>,
}

/// A node's way to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshLink {
    /// What it calls the other one.
    pub name: Label,
    /// Which way its packets go.
    pub path: MeshPath,
    /// Since the last handshake between the two; none if there was none.
    pub handshake_age_ms: Option<u64>,
    /// A packet there and back; none if it did not come back.
    pub round_trip_us: Option<u64>,
    /// What came from it directly.
    pub received_bytes: u64,
    /// What went to it directly.
    pub sent_bytes: u64,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeshPath {
    /// From one to the other.
    Direct,
    /// By the control plane.
    Hub,
}

/// Either way: what the other side sent could not be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorReport {
    /// One sentence.
    pub message: String,
}
