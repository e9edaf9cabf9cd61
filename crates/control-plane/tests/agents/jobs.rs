//! Jobs that do not simply succeed: they wait, are called off, are lost, come twice.

use std::time::Duration;

use sqlx::PgPool;
use wisehosting_domain::{
    id::{DeploymentId, InstanceId, JobId},
    limits::Limits,
    state::{DeploymentState::*, InstanceState},
};
use wisehosting_node::{channel::Role, random};
use wisehosting_protocol::{
    message::HubMessage,
    payload::{AppStatus, Outcome},
};
use wisehosting_store::{
    MIGRATOR, deployment_state,
    jobs::{self, Cancel},
    pool,
};

use crate::{
    agent::{Agent, deployed},
    platform::Platform,
};

impl Platform {
    async fn waits_for(&self, id: DeploymentId, reason: &str) {
        self.eventually(async || {
            let mut connection = pool::acquire(&self.state.pool).await.unwrap();
            let now = jobs::waiting_reason(&mut connection, id).await.unwrap();
            if now.as_deref() == Some(reason) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }

    async fn cancel(&self, id: DeploymentId) -> Cancel {
        let mut transaction = pool::begin(&self.state.pool).await.unwrap();
        let now = wisehosting_node::clock::Clock::now(&*self.clock);
        let cancel = jobs::request_cancel(&mut transaction, id, now).await.unwrap();
        if cancel == Cancel::Done {
            deployment_state::advance(&mut transaction, id, Cancelled, now).await.unwrap();
        }
        pool::notify(&mut transaction, wisehosting_store::changes::JOBS).await.unwrap();
        pool::commit(transaction).await.unwrap();
        cancel
    }
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_waits_for_a_worker_and_says_so(pool: PgPool) {
    let platform = Platform::start(pool).await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    platform.waits_for(id, "no worker is connected").await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    worker.deploy_job().await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_waits_for_memory(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut jobs = Vec::new();
    // Of 256 MiB each, on a worker of 1 GiB.
    for app in ["a", "b", "c", "d"] {
        platform.create_app(app).await;
        platform.deploy(app).await;
        jobs.push(worker.deploy_job().await);
    }
    platform.create_app("e").await;
    let id = platform.deploy("e").await;
    platform.waits_for(id, "no connected worker has 256 MiB of memory left").await;
    worker.finish(&jobs[0], Outcome::Failed { message: "x".to_owned() }).await;
    assert_eq!(worker.deploy_job().await.app.as_str(), "e");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn many_that_wait_for_memory_hold_up_nobody_who_needs_less(pool: PgPool) {
    const GIB: u64 = 1 << 30;
    let platform = Platform::start(pool).await;
    let big = Limits::new(2 * GIB, 1_000, 64).unwrap();
    let mut waiting = Vec::new();
    for number in 0..40 {
        let app = format!("big-{number}");
        platform.create_app_with(&app, big).await;
        waiting.push(platform.deploy(&app).await);
    }
    platform.create_app("small").await;
    platform.deploy("small").await;
    let mut worker = Agent::worker(&platform, "worker-1").await; // it has 1 GiB
    assert_eq!(worker.deploy_job().await.app.as_str(), "small");
    for id in waiting {
        platform.waits_for(id, "no connected worker has 2048 MiB of memory left").await;
    }
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn deployments_of_one_app_run_one_after_the_other(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    platform.create_app("other").await;
    let first = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    let second = platform.deploy("hello").await;
    platform.deploy("other").await;
    assert_eq!(worker.deploy_job().await.app.as_str(), "other", "of another app, at once");
    platform.waits_for(second, "an earlier deployment of this app is under way").await;
    worker.finish(&job, Outcome::Failed { message: "x".to_owned() }).await;
    platform.reaches(first, Failed).await;
    assert_eq!(worker.deploy_job().await.app.as_str(), "hello");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_queued_deployment_is_cancelled_at_once(pool: PgPool) {
    let platform = Platform::start(pool).await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    assert_eq!(platform.cancel(id).await, Cancel::Done);
    assert_eq!(platform.deployment(id).await.state, Cancelled);
    assert_eq!(platform.cancel(id).await, Cancel::TooLate);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_running_deployment_is_cancelled_by_its_worker(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    assert_eq!(platform.cancel(id).await, Cancel::Requested);
    match worker.next().await {
        HubMessage::JobCancel(cancel) => assert_eq!(cancel.0.job_id, job.job_id),
        message => panic!("{message:?}"),
    }
    worker.result(&job, Outcome::Cancelled).await;
    platform.reaches(id, Cancelled).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_cancel_that_the_worker_overtakes_still_counts(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    platform.cancel(id).await;
    assert!(matches!(worker.next().await, HubMessage::JobCancel(_)));
    worker.finish(&job, deployed(20_001)).await;
    platform.reaches(id, Cancelled).await;
    assert_eq!(worker.stop_job().await.instance_id, job.instance_id);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_instance_that_a_failed_deploy_left_running_is_stopped(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, Outcome::Failed { message: "it did not answer".to_owned() }).await;
    platform.reaches(id, Failed).await;

    let instance_id = job.instance_id;
    // Its engine may go on with what nobody waits for any more: then it is there after its stop as well.
    for observed_at_ms in [1, 2] {
        worker
            .send(AppStatus { instance_id, running: true, exit_code: None, stopped: false, observed_at_ms })
            .await;
        let stop = worker.stop_job().await;
        assert_eq!(stop.instance_id, instance_id);
        worker.finish(&stop, Outcome::Stopped).await;
        platform.instance_reaches(id, InstanceState::Stopped).await;
    }
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_instance_that_nobody_knows_is_stopped(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let instance_id = InstanceId(random::uuid());
    // Of an app that was removed while its worker was not declared.
    worker
        .send(AppStatus { instance_id, running: true, exit_code: None, stopped: false, observed_at_ms: 1 })
        .await;
    let stop = worker.stop_job().await;
    assert_eq!(stop.instance_id, instance_id);
    worker.finish(&stop, Outcome::Stopped).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_worker_that_misses_heartbeats_gets_no_new_instances(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.clock.advance(Duration::from_secs(31));
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    platform.waits_for(id, "no worker is connected").await;
    worker.heartbeat(&[]).await;
    worker.deploy_job().await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_result_that_comes_twice_counts_once(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    worker.finish(&job, deployed(20_001)).await;
    worker.finish(&job, Outcome::Failed { message: "no, it failed".to_owned() }).await;
    assert_eq!(platform.instance_states(id).await, [InstanceState::Healthy]);
    assert_eq!(platform.deployment(id).await.message, None);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_address_that_is_not_the_workers_own_is_not_routed_to(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-2").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    let failed = platform.reaches(id, Failed).await;
    assert_eq!(failed.message.as_deref(), Some("The worker reported an address that is not its own."));
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_worker_that_is_back_is_told_what_it_missed(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    for app in ["unacked", "acked", "listed"] {
        platform.create_app(app).await;
        platform.deploy(app).await;
    }
    let unacked = worker.deploy_job().await;
    let acked = worker.deploy_job().await;
    let listed = worker.deploy_job().await;
    worker.ack(&acked).await;
    worker.ack(&listed).await;
    // An acknowledgement has no answer; a result has, and comes after it.
    worker.finish(&listed, deployed(20_001)).await;
    drop(worker);

    let unknown = JobId(random::uuid());
    let mut worker = Agent::connect(&platform, Role::Worker, "worker-1", &[listed.job_id, unknown]).await;
    assert_eq!(worker.deploy_job().await.job_id, unacked.job_id);
    let mut called_off = Vec::new();
    for _ in 0..2 {
        match worker.next().await {
            HubMessage::JobCancel(cancel) => called_off.push(cancel.0.job_id),
            message => panic!("{message:?}"),
        }
    }
    called_off.sort();
    let mut expected = [listed.job_id, unknown];
    expected.sort();
    assert_eq!(called_off, expected, "what is over, and what never was");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_stop_that_goes_wrong_is_tried_again(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    platform.cancel(id).await;
    assert!(matches!(worker.next().await, HubMessage::JobCancel(_)));
    worker.finish(&job, deployed(20_001)).await;
    let stop = worker.stop_job().await;
    worker.finish(&stop, Outcome::Failed { message: "podman is busy".to_owned() }).await;
    platform.clock.advance(Duration::from_secs(31));
    platform.state.signals.jobs.notify_one();
    assert_eq!(worker.stop_job().await.job_id, stop.job_id);
    platform.stop().await;
}
