//! Limits that instances break, and instances that do not run.

use std::time::Duration;

use sqlx::PgPool;
use wisehosting_domain::{
    id::{DeploymentId, InstanceId},
    state::{DeploymentState, ViolationKind},
};
use wisehosting_node::clock::Clock as _;
use wisehosting_protocol::payload::{AppStatus, Heartbeat, Outcome, Violation, Work};
use wisehosting_store::{
    MIGRATOR, deployments, pool,
    violations::{self, Down},
};

use crate::{
    agent::{Agent, deployed},
    platform::{Platform, USER, label},
};

impl Platform {
    async fn down(&self) -> Vec<Down> {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        violations::down(&mut connection, USER).await.unwrap()
    }

    async fn instance(&self, id: DeploymentId) -> deployments::Instance {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        deployments::instances(&mut connection, USER, id).await.unwrap().remove(0)
    }
}

async fn live(platform: &Platform, worker: &mut Agent, edge: &mut Agent) -> (DeploymentId, InstanceId) {
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    loop {
        let table = edge.table().await;
        edge.serves(table.generation).await;
        if !table.routes.is_empty() {
            break;
        }
    }
    platform.reaches(id, DeploymentState::Live).await;
    (id, job.instance_id)
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_violation_is_stored_once_and_brings_the_app_down(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let (id, instance_id) = live(&platform, &mut worker, &mut edge).await;
    assert!(platform.down().await.is_empty());

    let message = "It used too much.\0 Deploy again.".to_owned();
    let violation =
        Violation { instance_id, kind: ViolationKind::OutOfMemory, message, observed_at_ms: 5_000 };
    let status =
        AppStatus { instance_id, running: false, exit_code: Some(137), stopped: true, observed_at_ms: 5_001 };
    worker.send(violation.clone()).await;
    worker.send(status.clone()).await;
    platform
        .eventually(async || match &platform.down().await[..] {
            [down] if down.deployment_id == id && down.violation.is_some() => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    let seen = platform.instance(id).await;
    let stored = seen.violation.expect("a violation");
    assert_eq!((seen.running, seen.exit_code, seen.stopped), (Some(false), Some(137), true));
    assert_eq!((stored.kind, stored.observed_at.unix_timestamp()), (ViolationKind::OutOfMemory, 5));

    // Told again, as after a reconnect, and by a worker that has no such instance.
    let stranger = Agent::worker(&platform, "worker-2").await;
    stranger.send(Violation { observed_at_ms: 9_000, ..violation.clone() }).await;
    worker.send(violation).await;
    worker.send(status).await;
    let back =
        AppStatus { instance_id, running: true, exit_code: None, stopped: false, observed_at_ms: 9_000 };
    worker.send(back).await;
    platform
        .eventually(async || if platform.down().await.is_empty() { Ok(()) } else { Err("down".to_owned()) })
        .await;
    let told = [
        "It used too much.\u{fffd} Deploy again.",
        "The program has ended with exit status 137 and does not run",
    ];
    assert_eq!(platform.log_texts("hello").await, told);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn what_is_stored_is_also_said_even_if_postgres_refuses_it_at_first(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let (_, instance_id) = live(&platform, &mut worker, &mut edge).await;
    platform.refuse_lines(false).await;
    let message = "It used too much.".to_owned();
    worker
        .send(Violation { instance_id, kind: ViolationKind::OutOfMemory, message, observed_at_ms: 5_000 })
        .await;
    platform.accept_lines().await;
    worker.is_heard().await;
    assert_eq!(platform.log_texts("hello").await, ["It used too much."]);
    platform.stop().await;
}

/// A heartbeat of a worker on which so many run; returns when it was carried out. `number` is another each time.
async fn beat(platform: &Platform, worker: &mut Agent, number: u64, instances: Option<u32>) {
    let running_jobs = Vec::new();
    worker.send(Heartbeat { memory_bytes_used: number, cpu_millis_used: 0, instances, running_jobs }).await;
    // It may be overtaken by what is sent after it.
    platform
        .eventually(async || {
            let host = platform.state.hub.stats().host(&label("worker-1"), platform.clock.now());
            if host.is_some_and(|host| host.load.memory_bytes == number) {
                Ok(())
            } else {
                Err(format!("{host:?}"))
            }
        })
        .await;
    worker.is_heard().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn what_a_worker_that_is_back_does_not_name_is_replaced(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let (id, instance_id) = live(&platform, &mut worker, &mut edge).await;
    let named = AppStatus { instance_id, running: true, exit_code: None, stopped: false, observed_at_ms: 1 };
    for (number, is_named) in [(100, true), (200, false)] {
        drop(worker);
        worker = Agent::worker(&platform, "worker-1").await;
        if is_named {
            worker.send(named.clone()).await;
        }
        for before_its_first_look in 1..=5 {
            beat(&platform, &mut worker, number + before_its_first_look, None).await;
        }
        for early in 6..=8 {
            beat(&platform, &mut worker, number + early, Some(0)).await;
        }
        assert!(!platform.instance(id).await.stopped, "it still has time");
        beat(&platform, &mut worker, number + 9, Some(1)).await;
        assert!(!platform.instance(id).await.stopped, "it has one, and may not know yet which");
        beat(&platform, &mut worker, number + 10, Some(0)).await;
        assert_eq!(platform.instance(id).await.stopped, !is_named);
    }
    assert_eq!(platform.down().await[0].deployment_id, id);

    // The same, anew, without anybody asking for it.
    let job = worker.deploy_job().await;
    let Work::Deploy(deploy) = &job.work else { unreachable!() };
    assert_eq!(deploy.image_id.as_deref(), Some("sha256:00"));
    worker.finish(&job, deployed(20_002)).await;
    let table = edge.table().await;
    edge.serves(table.generation).await;
    platform.reaches(deploy.deployment_id, DeploymentState::Live).await;
    assert!(platform.down().await.is_empty());
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_instance_that_was_to_stop_has_not_fallen(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let (_, instance_id) = live(&platform, &mut worker, &mut edge).await;
    platform.stop_app("hello").await;
    let table = edge.table().await;
    edge.serves(table.generation).await;
    edge.has_drained(table.generation).await;
    let stop = worker.stop_job().await;
    assert_eq!(stop.instance_id, instance_id);
    let gone =
        AppStatus { instance_id, running: false, exit_code: None, stopped: true, observed_at_ms: 5_000 };
    worker.send(gone).await;
    worker.finish(&stop, Outcome::Stopped).await;
    assert_eq!(platform.log_texts("hello").await, [""; 0]);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_instance_that_a_worker_does_not_name_is_replaced_although_the_clock_was_set_back(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    live(&platform, &mut worker, &mut edge).await;
    drop(worker);
    platform.clock.set_back(Duration::from_secs(3_600));
    let mut worker = Agent::worker(&platform, "worker-1").await;
    for _ in 0..4 {
        worker.heartbeat(&[]).await;
    }
    worker.deploy_job().await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_instance_whose_container_is_removed_is_replaced_once(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let (id, instance_id) = live(&platform, &mut worker, &mut edge).await;
    let gone =
        AppStatus { instance_id, running: false, exit_code: None, stopped: true, observed_at_ms: 5_000 };
    worker.send(gone.clone()).await;
    worker.is_heard().await;
    assert_eq!(
        platform.log_texts("hello").await,
        ["The container is gone or cannot be started: the app is deployed again"]
    );
    let job = worker.deploy_job().await;
    worker.finish(&job, Outcome::Failed { message: "the repository is gone".to_owned() }).await;
    worker.send(gone).await;
    worker.is_heard().await;
    platform.eventually(async || if platform.is_at_rest().await { Ok(()) } else { Err(String::new()) }).await;
    assert_eq!(platform.deployment(id).await.state, DeploymentState::Live);
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM deployments");
    assert_eq!(count.fetch_one(&platform.state.pool).await.unwrap(), 2, "its owner must look at it");
    platform.stop().await;
}
