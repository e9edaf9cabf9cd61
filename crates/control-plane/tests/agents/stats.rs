//! What a worker says of the use of its host and its instances.

use sqlx::PgPool;
use uuid::Uuid;
use wisehosting_domain::{
    id::InstanceId,
    usage::{Rates, Usage},
};
use wisehosting_node::clock::Clock;
use wisehosting_protocol::payload::{AppStats, Heartbeat, HostStats, InstanceStats};
use wisehosting_store::MIGRATOR;

use crate::{
    agent::Agent,
    platform::{Platform, label},
};

#[sqlx::test(migrator = "MIGRATOR")]
async fn what_a_worker_says_is_kept_and_made_into_rates(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let worker = Agent::worker(&platform, "worker-1").await;
    let instance_id = InstanceId(Uuid::from_u128(1));
    let told = |observed_at_ms, cpu_us| {
        let usage = Usage { cpu_us, ..Usage::default() };
        AppStats {
            observed_at_ms,
            host: HostStats::default(),
            instances: vec![InstanceStats { instance_id, usage }],
        }
    };
    worker
        .send(Heartbeat {
            memory_bytes_used: 5,
            cpu_millis_used: 6,
            instances: Some(1),
            running_jobs: Vec::new(),
        })
        .await;
    worker.send(told(1_000, 0)).await;
    let stats = platform.state.hub.stats();
    let seen = |rates: Option<Rates>| {
        let now = platform.clock.now();
        let found = stats.instance(&label("worker-1"), instance_id, now);
        if found.is_some_and(|found| found.rates == rates) { Ok(()) } else { Err(format!("{found:?}")) }
    };
    platform.eventually(async || seen(None)).await;
    // Only the newest waits, so the second is sent when the first has arrived.
    worker.send(told(3_000, 500_000)).await;
    let rates = Rates {
        cpu_millis: 250,
        received_bytes_per_s: 0,
        sent_bytes_per_s: 0,
        disk_read_bytes_per_s: None,
        disk_written_bytes_per_s: None,
    };
    platform.eventually(async || seen(Some(rates))).await;
    let host = stats.host(&label("worker-1"), platform.clock.now()).expect("its heartbeat came first");
    assert_eq!((host.load.memory_bytes, host.load.cpu_millis), (5, 6));
}
