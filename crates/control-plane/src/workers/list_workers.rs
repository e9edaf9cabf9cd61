//! `GET /v1/workers`: the machines that run apps.

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use wisehosting_store::workers;

use super::health::WorkerHealth;
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    state::AppState,
    stats::HostNow,
};

/// Workers, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerList {
    workers: Vec<Worker>,
}

/// A machine that runs apps.
#[derive(Debug, Serialize, ToSchema)]
pub struct Worker {
    /// Its name.
    #[schema(example = "worker-1")]
    name: String,
    /// Whether its agent is connected now.
    connected: bool,
    /// Whether it can be relied on.
    state: WorkerHealth,
    /// When its agent last said anything.
    #[serde(with = "time::serde::rfc3339::option")]
    observed_at: Option<OffsetDateTime>,
    /// Its address inside the mesh.
    #[schema(example = "10.50.0.11")]
    address: String,
    /// Version of its agent.
    version: Option<String>,
    /// Memory for instances; 0 until its agent has said how much.
    memory_bytes: u64,
    /// Sum of the memory limits of its instances.
    memory_bytes_used: u64,
    /// Processor time for instances, in thousandths of a core.
    cpu_millis: u32,
    /// Sum of the CPU limits of its instances.
    cpu_millis_used: u32,
    /// How many instances it has.
    instances: i64,
    /// Whether its apps are being moved to other workers, and it gets no new ones: an operator drains it, or it is no longer
    /// declared.
    draining: bool,
    /// What its machine uses now; none if it was not heard of for a while.
    usage: Option<WorkerUsage>,
}

/// What a worker's machine uses, with all that runs on it.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerUsage {
    /// Memory.
    memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    cpu_millis: u32,
    /// Size of the file system that holds images and containers; 0 if it is not known.
    disk_bytes: u64,
    /// How much of it is in use.
    disk_bytes_used: u64,
    /// Whether it keeps an instance from writing more than its disk limit; else the worker stops one that has.
    disk_limits_held: bool,
    /// What came in over the mesh since its interface was made; 0 if it is not known.
    mesh_received_bytes: u64,
    /// What went out there.
    mesh_sent_bytes: u64,
}

impl From<HostNow> for WorkerUsage {
    fn from(HostNow { load, told }: HostNow) -> Self {
        let told = told.unwrap_or_default();
        Self {
            memory_bytes: load.memory_bytes,
            cpu_millis: load.cpu_millis,
            disk_bytes: told.disk_bytes,
            disk_bytes_used: told.disk_bytes_used,
            disk_limits_held: told.disk_limits_held,
            mesh_received_bytes: told.mesh_received_bytes,
            mesh_sent_bytes: told.mesh_sent_bytes,
        }
    }
}

/// List the workers, by name: those that are declared, and those that no longer are but still have instances.
#[utoipa::path(
    get, path = "/v1/workers", tag = "nodes", operation_id = "list_workers",
    responses(
        (status = 200, description = "The workers.", body = WorkerList),
        (status = 401, description = "Not signed in.", body = ErrorBody),
    ),
)]
pub async fn list_workers(
    State(state): State<AppState>,
    SignedIn { mut db, .. }: SignedIn,
) -> Result<Json<WorkerList>, Problem> {
    let now = state.clock.now();
    let workers = workers::list(&mut db).await?.into_iter().map(|worker| Worker {
        connected: state.hub.is_connected(&worker.name),
        state: WorkerHealth::of(state.hub.is_connected(&worker.name), worker.last_seen_at, now),
        usage: state.hub.stats().host(&worker.name, now).map(WorkerUsage::from),
        name: worker.name.into(),
        observed_at: worker.last_seen_at,
        address: worker.address.to_string(),
        version: worker.version,
        memory_bytes: worker.capacity.memory_bytes,
        memory_bytes_used: worker.used.memory_bytes,
        cpu_millis: worker.capacity.cpu_millis,
        cpu_millis_used: worker.used.cpu_millis,
        instances: worker.instances,
        draining: worker.draining,
    });
    Ok(Json(WorkerList { workers: workers.collect() }))
}
