//! Answers of the REST API, as far as they are shown to people. `--json` passes on the whole answer instead.

use serde::Deserialize;

/// Why a request was refused.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// The body of a refusal.
#[derive(Debug, Deserialize)]
pub(crate) struct ProblemBody {
    pub(crate) error: Problem,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AppList {
    pub(crate) apps: Vec<App>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) url: String,
    pub(crate) urls: Vec<String>,
    pub(crate) settings: AppSettings,
    pub(crate) live: Option<Deployment>,
    pub(crate) latest: Option<Deployment>,
    pub(crate) violation: Option<Violation>,
    pub(crate) usage: Option<AppUsage>,
}

/// What an app uses, all its instances together.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AppUsage {
    pub(crate) cpu_millis: u32,
    pub(crate) memory_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AppStats {
    pub(crate) instances: Vec<InstanceStats>,
}

/// An instance with its limits.
#[derive(Debug, Deserialize)]
pub(crate) struct InstanceStats {
    pub(crate) instance_id: String,
    pub(crate) worker: String,
    pub(crate) state: String,
    pub(crate) cpu_millis_max: u32,
    pub(crate) memory_bytes_max: u64,
    pub(crate) usage: Option<InstanceUsage>,
}

/// What it uses now.
#[derive(Debug, Deserialize)]
pub(crate) struct InstanceUsage {
    pub(crate) cpu_millis: Option<u32>,
    pub(crate) memory_bytes: u64,
    pub(crate) processes: u32,
    pub(crate) received_bytes_per_s: Option<u64>,
    pub(crate) sent_bytes_per_s: Option<u64>,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) disk_read_bytes_per_s: Option<u64>,
    pub(crate) disk_written_bytes_per_s: Option<u64>,
}

/// A limit that was broken.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Violation {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) observed_at: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AppSettings {
    pub(crate) repository: String,
    pub(crate) branch: Option<String>,
    pub(crate) login: Option<Login>,
    pub(crate) limits: Limits,
}

/// That a private repository has a login.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) set_at: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_millis: u32,
    pub(crate) pids: u32,
    pub(crate) bandwidth_bits_per_s: Option<u64>,
    pub(crate) disk_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DeploymentList {
    pub(crate) deployments: Vec<Deployment>,
}

/// A deployment; in lists without its steps and its address.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) app: String,
    pub(crate) number: i32,
    pub(crate) state: String,
    pub(crate) commit: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
    pub(crate) url: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Step {
    pub(crate) state: String,
    pub(crate) duration_ms: Option<u64>,
}

impl Deployment {
    pub(crate) fn is_live(&self) -> bool {
        self.state == "live"
    }

    /// Whether nothing more will happen to it by itself.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state.as_str(), "live" | "superseded" | "failed" | "cancelled")
    }
}

/// Lines of a build or of an app.
#[derive(Debug, Deserialize)]
pub(crate) struct Log {
    pub(crate) lines: Vec<LogLine>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogLine {
    pub(crate) number: u64,
    /// None in the log of a build.
    pub(crate) app: Option<String>,
    pub(crate) text: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WorkerList {
    pub(crate) workers: Vec<Worker>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) address: String,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_bytes_used: u64,
    pub(crate) cpu_millis: u32,
    pub(crate) cpu_millis_used: u32,
    pub(crate) instances: i64,
    pub(crate) draining: bool,
    pub(crate) usage: Option<WorkerUsage>,
}

/// What a worker's machine uses.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct WorkerUsage {
    pub(crate) cpu_millis: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_bytes_used: u64,
    pub(crate) disk_limits_held: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct EdgeList {
    pub(crate) edges: Vec<Edge>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Edge {
    pub(crate) name: String,
    pub(crate) connected: bool,
    pub(crate) address: String,
    pub(crate) acked_generation: u64,
    pub(crate) current: bool,
}

/// The mesh as it is known now.
#[derive(Debug, Deserialize)]
pub(crate) struct Mesh {
    pub(crate) mtu: Option<u32>,
    pub(crate) nodes: Vec<MeshNode>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct MeshNode {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) address: String,
    pub(crate) connected: bool,
    pub(crate) tunnel: Option<MeshTunnel>,
    pub(crate) told: Option<MeshTold>,
}

/// Between the control plane and a node, as the control plane sees it.
#[derive(Debug, Deserialize)]
pub(crate) struct MeshTunnel {
    pub(crate) handshake_age_ms: Option<u64>,
}

/// What a node says of the mesh.
#[derive(Debug, Deserialize)]
pub(crate) struct MeshTold {
    pub(crate) age_ms: u64,
    pub(crate) current: bool,
    pub(crate) mtu: u32,
    pub(crate) links: Vec<MeshLink>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct MeshLink {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) handshake_age_ms: Option<u64>,
    pub(crate) round_trip_us: Option<u64>,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

impl Edge {
    /// In the words that a worker's has.
    pub(crate) fn state(&self) -> &'static str {
        if self.connected { "connected" } else { "away" }
    }
}
