//! `GET /v1/apps/{name}/stats`: what an app's instances use.

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;
use wisehosting_domain::{id::AppId, name::Label};
use wisehosting_store::{
    apps,
    instances::{self, Placed},
};

use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::PathOf,
    state::AppState,
    stats::{InstanceNow, Point, Stats},
};

/// What an app's instances use.
#[derive(Debug, Serialize, ToSchema)]
pub struct AppStats {
    /// All of them together; none if none was heard of lately.
    usage: Option<AppUsage>,
    /// Each of them, oldest first.
    instances: Vec<InstanceStats>,
}

/// What an app uses, all its instances together.
#[derive(Debug, Serialize, ToSchema)]
pub struct AppUsage {
    /// Processor time, in thousandths of a core; those instances that have just started do not count yet.
    pub cpu_millis: u32,
    /// Memory.
    pub memory_bytes: u64,
}

/// One instance: its limits, and what it uses.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceStats {
    /// Which.
    instance_id: Uuid,
    /// Number of its deployment within the app.
    deployment: i32,
    /// Name of its worker.
    #[schema(example = "worker-1")]
    worker: String,
    /// How far it is: `starting`, `healthy`, `draining` or `stopping`.
    #[schema(example = "healthy")]
    state: String,
    /// The processor time that it may use, in thousandths of a core.
    cpu_millis_max: u32,
    /// The memory that it may use.
    memory_bytes_max: u64,
    /// What it uses now; none if its worker was not heard of for a while, or does not run it.
    usage: Option<InstanceUsage>,
    /// What it used in the last ten minutes, oldest first.
    history: Vec<UsagePoint>,
}

/// What an instance uses now. A rate is over the last ten seconds, and none just after the start.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceUsage {
    /// When its worker told it.
    #[serde(with = "time::serde::rfc3339")]
    observed_at: OffsetDateTime,
    /// Processor time, in thousandths of a core.
    cpu_millis: Option<u32>,
    /// Processor time since its start.
    cpu_us: u64,
    /// Memory, without what the kernel keeps of files and can take back at once.
    memory_bytes: u64,
    /// Processes and threads.
    processes: u32,
    /// Received in a second.
    received_bytes_per_s: Option<u64>,
    /// Sent in a second.
    sent_bytes_per_s: Option<u64>,
    /// Received since its start.
    received_bytes: u64,
    /// Sent since its start.
    sent_bytes: u64,
    /// What it has written to its own disk and not removed; it is counted every minute at most.
    disk_bytes: Option<u64>,
    /// Read from disks in a second; none, too, where its worker's kernel does not count it.
    disk_read_bytes_per_s: Option<u64>,
    /// Written to disks in a second, as that.
    disk_written_bytes_per_s: Option<u64>,
}

/// What an instance used at a time.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsagePoint {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// Processor time in the seconds before, in thousandths of a core.
    cpu_millis: u32,
    /// Memory.
    memory_bytes: u64,
}

impl From<InstanceNow> for InstanceUsage {
    fn from(InstanceNow { at, usage, rates }: InstanceNow) -> Self {
        Self {
            observed_at: at,
            cpu_millis: rates.map(|rates| rates.cpu_millis),
            cpu_us: usage.cpu_us,
            memory_bytes: usage.memory_bytes,
            processes: usage.processes,
            received_bytes_per_s: rates.map(|rates| rates.received_bytes_per_s),
            sent_bytes_per_s: rates.map(|rates| rates.sent_bytes_per_s),
            received_bytes: usage.received_bytes,
            sent_bytes: usage.sent_bytes,
            disk_bytes: usage.disk_bytes,
            disk_read_bytes_per_s: rates.and_then(|rates| rates.disk_read_bytes_per_s),
            disk_written_bytes_per_s: rates.and_then(|rates| rates.disk_written_bytes_per_s),
        }
    }
}

impl From<Point> for UsagePoint {
    fn from(Point { at, cpu_millis, memory_bytes }: Point) -> Self {
        Self { at, cpu_millis, memory_bytes }
    }
}

impl AppUsage {
    /// What the instances of one app, among `placed`, use together now.
    pub(super) fn of(app: AppId, placed: &[Placed], stats: &Stats, now: OffsetDateTime) -> Option<Self> {
        let own = placed.iter().filter(|instance| instance.app_id == app);
        own.filter_map(|instance| stats.instance(&instance.worker, instance.id, now))
            .map(|now| Self {
                cpu_millis: now.rates.map_or(0, |rates| rates.cpu_millis),
                memory_bytes: now.usage.memory_bytes,
            })
            .reduce(|sum, one| Self {
                cpu_millis: sum.cpu_millis.saturating_add(one.cpu_millis),
                memory_bytes: sum.memory_bytes.saturating_add(one.memory_bytes),
            })
    }
}

/// Show what an app's instances use: what their workers say every ten seconds, kept in memory for ten minutes.
#[utoipa::path(
    get, path = "/v1/apps/{name}/stats", tag = "apps", operation_id = "get_app_stats",
    params(("name" = String, Path, description = "Name of the app.")),
    responses(
        (status = 200, description = "Its instances.", body = AppStats),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
    ),
)]
pub async fn get_app_stats(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
) -> Result<Json<AppStats>, Problem> {
    let app = apps::get(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    let mut placed = instances::placed(&mut db, user.id).await?;
    placed.retain(|instance| instance.app_id == app.id);
    let now = state.clock.now();
    let instances = placed.iter().map(|instance| InstanceStats {
        instance_id: instance.id.0,
        deployment: instance.deployment,
        worker: instance.worker.to_string(),
        state: instance.state.to_string(),
        cpu_millis_max: instance.cpu_millis,
        memory_bytes_max: instance.memory_bytes,
        usage: state.hub.stats().instance(&instance.worker, instance.id, now).map(InstanceUsage::from),
        history: state
            .hub
            .stats()
            .history(&instance.worker, instance.id)
            .into_iter()
            .map(UsagePoint::from)
            .collect(),
    });
    let instances = instances.collect();
    Ok(Json(AppStats { usage: AppUsage::of(app.id, &placed, state.hub.stats(), now), instances }))
}
