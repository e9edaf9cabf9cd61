//! Jobs of which too little is heard, or that take too long. Time passes where a test says so, so what is asserted is exact.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::timeout;
use wisehosting_control_plane::{
    events::{Change, ChangeKind},
    scheduler::leases::Leases,
    tasks::Reconciler as _,
};
use wisehosting_domain::{
    id::DeploymentId,
    state::{
        DeploymentState::{self, *},
        InstanceState,
    },
};
use wisehosting_node::{channel::Event, clock::Clock as _};
use wisehosting_protocol::{
    message::HubMessage,
    payload::{Job, Outcome, Work},
};
use wisehosting_store::{MIGRATOR, pool, workers};

use crate::{
    agent::{Agent, deployed},
    deploy::{agents, live_app},
    platform::{PATIENCE, Platform},
};

const LOST: &str = "Worker worker-1 was lost: nothing was heard of the job for 30 s. Deploy again.";

impl Platform {
    /// Lets time pass, with a look at the leases every second; says in which state the deployment is then.
    async fn after(&self, seconds: u64, leases: &mut Leases, id: DeploymentId) -> DeploymentState {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            leases.reconcile().await.unwrap();
        }
        self.deployment(id).await.state
    }

    /// Waits until a heartbeat is stored; other messages may overtake it.
    async fn has_seen(&self, worker: &str) {
        self.eventually(async || {
            let mut connection = pool::acquire(&self.state.pool).await.unwrap();
            let workers = workers::list(&mut connection).await.unwrap();
            let seen = workers.iter().find(|seen| seen.name.as_str() == worker).unwrap().last_seen_at;
            let age = seen.map(|seen| self.clock.now() - seen);
            if age.is_some_and(|age| age < time::Duration::SECOND) { Ok(()) } else { Err(format!("{age:?}")) }
        })
        .await;
    }

    /// Lets minutes pass in which the worker says that it is at work.
    async fn beats(&self, minutes: u64, leases: &mut Leases, worker: &mut Agent, job: &Job) {
        for _ in 0..6 * minutes {
            worker.heartbeat(&[job.job_id]).await;
            self.clock.advance(Duration::from_secs(10));
            leases.reconcile().await.unwrap();
        }
    }
}

/// As after a commit whose answer was lost: the job is the worker's, and nobody has told it.
#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_that_its_worker_does_not_acknowledge_is_sent_again(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    assert_eq!(platform.after(6, &mut leases, id).await, Queued);
    let again = worker.event().await;
    assert!(matches!(&again, Event::Message(HubMessage::Job(again)) if *again == job), "{again:?}");
    worker.finish(&job, deployed(20_001)).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_of_a_silent_worker_fails_with_its_lease_and_its_late_instance_is_stopped(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.ack(&job).await;
    assert_eq!(platform.after(20, &mut leases, id).await, Queued);
    worker.heartbeat(&[job.job_id]).await;
    platform.has_seen("worker-1").await;
    assert_eq!(platform.after(30, &mut leases, id).await, Queued, "30 s from when it was last heard of");
    assert_eq!(platform.after(1, &mut leases, id).await, Failed);
    assert_eq!(platform.deployment(id).await.message.as_deref(), Some(LOST));
    // The job is called off, and whatever came of it is to be stopped.
    let (first, second) = (worker.next().await, worker.next().await);
    let (HubMessage::JobCancel(cancel), HubMessage::Job(stop)) = (match first {
        HubMessage::JobCancel(_) => (first, second),
        _ => (second, first),
    }) else {
        panic!("no cancel and stop")
    };
    assert_eq!((cancel.0.job_id, stop.instance_id), (job.job_id, job.instance_id));

    worker.finish(&job, deployed(20_001)).await;
    worker.finish(&job, deployed(20_001)).await;
    worker.finish(&stop, Outcome::Stopped).await;
    assert_eq!(platform.instance_states(id).await, [InstanceState::Stopped]);
    assert_eq!(platform.deployment(id).await.state, Failed, "what is final stays");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_deploy_that_never_ends_fails_although_its_worker_is_well(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    match &job.work {
        Work::Deploy(deploy) => assert_eq!(deploy.deadline_ms, 15 * 60 * 1_000),
        work => panic!("{work:?}"),
    }
    // Others are built before it.
    platform.beats(20, &mut leases, &mut worker, &job).await;
    worker.status(&job, Cloning).await;
    platform.beats(10, &mut leases, &mut worker, &job).await;
    worker.status(&job, Building).await;
    // A minute more than the worker was given, which is to say itself that it took too long.
    platform.beats(6, &mut leases, &mut worker, &job).await;
    assert_eq!(platform.deployment(id).await.state, Building);
    assert_eq!(platform.after(1, &mut leases, id).await, Failed);
    let message =
        "It took longer than 15 minutes, or had to wait for 2 hours. Make the build faster, or try again.";
    assert_eq!(platform.deployment(id).await.message.as_deref(), Some(message));
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_deploy_does_not_take_longer_because_the_clock_was_set(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.ack(&job).await;
    worker.status(&job, Building).await;
    platform.beats(1, &mut leases, &mut worker, &job).await;
    platform.clock.advance(Duration::from_secs(3_600));
    platform.beats(14, &mut leases, &mut worker, &job).await;
    platform.clock.set_back(Duration::from_secs(7_200));
    assert_eq!(platform.after(1, &mut leases, id).await, Building);
    platform.beats(2, &mut leases, &mut worker, &job).await;
    assert_eq!(platform.after(1, &mut leases, id).await, Failed, "no less either");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_that_was_given_after_the_clock_was_set_back_has_all_its_time(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    platform.clock.set_back(Duration::from_secs(20_000));
    worker.heartbeat(&[]).await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.ack(&job).await;
    worker.status(&job, Building).await;
    worker.is_heard().await;
    leases.reconcile().await.unwrap();
    platform.beats(15, &mut leases, &mut worker, &job).await;
    assert_eq!(platform.deployment(id).await.state, Building);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_stop_of_a_silent_worker_comes_again(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.ack(&job).await;
    worker.is_heard().await;
    assert_eq!(platform.after(31, &mut leases, id).await, Failed);
    let stop = worker.stop_job_beside_cancels().await;
    worker.ack(&stop).await;
    worker.is_heard().await;
    platform.after(31, &mut leases, id).await;
    assert_eq!(worker.stop_job_beside_cancels().await, stop);
    worker.finish(&stop, Outcome::Stopped).await;
    assert_eq!(platform.instance_states(id).await, [InstanceState::Stopped]);
    assert_eq!(stop.instance_id, job.instance_id);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_that_is_sent_again_gets_a_new_lease(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    assert_eq!(platform.after(28, &mut leases, id).await, Queued);
    drop(worker);
    let mut worker = Agent::worker(&platform, "worker-1").await;
    assert_eq!(worker.deploy_job().await.job_id, job.job_id);
    assert_eq!(platform.after(30, &mut leases, id).await, Queued);
    worker.ack(&job).await;
    worker.is_heard().await;
    drop(worker);
    // What it has taken and does not know of any more is not sent again, and is lost with its lease.
    let _worker = Agent::worker(&platform, "worker-1").await;
    assert_eq!(platform.after(1, &mut leases, id).await, Failed);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn nothing_is_lost_by_a_pause_of_the_control_plane_or_a_step_of_its_clock(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    worker.deploy_job().await;
    for pause in [120, 40] {
        platform.clock.advance(Duration::from_secs(pause));
        assert_eq!(platform.after(1, &mut leases, id).await, Queued, "after {pause} s");
    }
    platform.clock.set_back(Duration::from_secs(3_600));
    assert_eq!(platform.after(1, &mut leases, id).await, Queued, "an hour ago");
    // It has the time to connect again, but no more.
    assert_eq!(platform.after(60, &mut leases, id).await, Queued);
    assert_eq!(platform.after(1, &mut leases, id).await, Failed);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_stop_waits_no_longer_because_the_clock_was_set_back(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    live_app(&platform, &mut worker, &mut edge).await;
    platform.stop_app("hello").await;
    let generation = edge.table().await.generation;
    edge.serves(generation).await;
    edge.has_drained(generation).await;
    let stop = worker.stop_job().await;
    worker.finish(&stop, Outcome::Failed { message: "the engine is away".to_owned() }).await;
    platform.clock.set_back(Duration::from_secs(3_600));
    leases.reconcile().await.unwrap();
    platform.state.signals.jobs.notify_one();
    assert_eq!(worker.stop_job().await.instance_id, stop.instance_id, "it is tried again");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_deploy_of_a_worker_that_was_removed_leaves_nothing_to_wait_for(pool: PgPool) {
    let (platform, mut leases) = Platform::start_timeless(pool).await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    for statement in [
        "INSERT INTO workers (name, address, removed_at) VALUES ('removed', '10.50.0.19', now())",
        "INSERT INTO instances (id, deployment_id, worker, state, memory_bytes, cpu_millis, created_at)
         SELECT id, id, 'removed', 'starting', 1, 1, now() FROM deployments",
        "UPDATE jobs SET state = 'running', worker = 'removed', instance_id = deployment_id, lease_expires_at = 'epoch'",
    ] {
        sqlx::query(statement).execute(&platform.state.pool).await.unwrap();
    }
    assert_eq!(platform.after(1, &mut leases, id).await, Failed);
    assert_eq!(platform.instance_states(id).await, [InstanceState::Failed]);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn who_looks_is_told_of_a_worker_that_falls_silent(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    worker.heartbeat(&[]).await;
    platform.has_seen("worker-1").await;
    let mut changes = platform.state.changes.subscribe();
    platform.clock.advance(Duration::from_secs(31));
    let told = async { while changes.next().await != Change::of_all(ChangeKind::Node) {} };
    timeout(PATIENCE, told).await.expect("nobody is told");
    platform.stop().await;
}
