//! The queue: who gets which job when, and what ends it.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use wisehosting_domain::{
    id::{InstanceId, JobId},
    state::{JobKind, JobState},
};
use wisehosting_store::{
    MIGRATOR,
    jobs::{self, Cancel, Run},
    pool, workers,
};

use crate::fixture::{NOW, app, at, deploy, id, instance, label, platform};

async fn next(conn: &mut PgConnection, connected: &[&str], now: OffsetDateTime) -> Option<u128> {
    let connected: Vec<_> = connected.iter().map(|name| label(name)).collect();
    let ready = jobs::lock_ready(conn, &connected, None, 1, now).await.unwrap();
    ready.first().map(|ready| ready.job.id.0.as_u128())
}

/// Gives job `n` to worker-1 with a lease and a deadline.
async fn start(conn: &mut PgConnection, n: u128, instance: InstanceId, lease: i64, deadline: i64) {
    let run = Run {
        lease_expires_at: Some(at(lease)),
        deadline_at: Some(at(deadline)),
        acked: false,
        cancel_requested: false,
    };
    jobs::start(conn, JobId(id(n)), &label("worker-1"), instance, NOW, run).await.unwrap();
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_is_claimed_by_one_only(pool: PgPool) {
    let mut first = pool::begin(&pool).await.unwrap();
    platform(&mut first).await;
    app(&mut first, 1, "a").await;
    app(&mut first, 2, "b").await;
    deploy(&mut first, 10, "a", 0).await;
    deploy(&mut first, 11, "b", 1).await;
    pool::commit(first).await.unwrap();

    let mut one = pool::begin(&pool).await.unwrap();
    let mut other = pool::begin(&pool).await.unwrap();
    assert_eq!(next(&mut one, &[], NOW).await, Some(10));
    assert_eq!(next(&mut other, &[], NOW).await, Some(11), "the first is held by somebody else");
    drop(one);
    assert_eq!(next(&mut pool::begin(&pool).await.unwrap(), &[], NOW).await, Some(10));
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_queue_is_walked_through_in_steps(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    // Two that were asked for at once, and one later.
    for (n, seconds) in [(1, 0), (2, 0), (3, 1)] {
        let name = format!("app-{n}");
        app(&mut conn, n, &name).await;
        deploy(&mut conn, n, &name, seconds).await;
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let ready = jobs::lock_ready(&mut conn, &[], after, 2, NOW).await.unwrap();
        let Some(last) = ready.last() else { break };
        after = Some(last.turn);
        seen.push(ready.iter().map(|ready| ready.job.id.0.as_u128()).collect::<Vec<_>>());
    }
    assert_eq!(seen, [vec![1, 2], vec![3]]);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn settings_of_another_version_hold_up_nobody(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    for (n, name) in [(1, "a"), (2, "b")] {
        app(&mut conn, n, name).await;
        deploy(&mut conn, n, name, 0).await;
    }
    let change = "UPDATE deployments SET snapshot = snapshot || '{\"from_the_future\": 1}' WHERE id = $1";
    sqlx::query(change).bind(id(1)).execute(&mut *conn).await.unwrap();
    let ready = jobs::lock_ready(&mut conn, &[], None, 2, NOW).await.unwrap();
    assert_eq!(ready.iter().map(|ready| ready.job.content.is_ok()).collect::<Vec<_>>(), [false, true]);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn deployments_of_an_app_wait_for_each_other(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let first = deploy(&mut conn, 10, "a", 0).await;
    let second = deploy(&mut conn, 11, "a", 1).await;
    assert_eq!(next(&mut conn, &[], NOW).await, Some(10));
    let instance = instance(&mut conn, 20, first).await;
    start(&mut conn, 10, instance, 30, 900).await;
    assert_eq!(next(&mut conn, &[], NOW).await, None);
    let reason = jobs::waiting_reason(&mut conn, second).await.unwrap();
    assert_eq!(reason.as_deref(), Some("an earlier deployment of this app is under way"));
    jobs::finish(&mut conn, JobId(id(10)), JobState::Failed, None, NOW).await.unwrap();
    assert_eq!(next(&mut conn, &[], NOW).await, Some(11));
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_stop_waits_for_its_own_worker_and_for_its_time(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let deployment = deploy(&mut conn, 10, "a", 0).await;
    let instance = instance(&mut conn, 20, deployment).await;
    jobs::request_cancel(&mut conn, deployment, NOW).await.unwrap();
    let stop = JobId(id(30));
    jobs::enqueue_stop(&mut conn, stop, instance, NOW).await.unwrap();
    jobs::enqueue_stop(&mut conn, JobId(id(31)), instance, NOW).await.unwrap();

    assert_eq!(next(&mut conn, &["worker-2"], NOW).await, None);
    assert_eq!(next(&mut conn, &["worker-1"], NOW).await, Some(30));
    jobs::retry(&mut conn, stop, "busy", at(30)).await.unwrap();
    assert_eq!(next(&mut conn, &["worker-1"], at(29)).await, None, "nor is there a second stop job");
    assert_eq!(next(&mut conn, &["worker-1"], at(30)).await, Some(30));
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_is_overdue_by_its_lease_or_its_deadline(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let deployment = deploy(&mut conn, 10, "a", 0).await;
    let instance = instance(&mut conn, 20, deployment).await;
    start(&mut conn, 10, instance, 30, 100).await;

    let overdue = async |conn: &mut PgConnection, seconds| {
        !jobs::lock_overdue(conn, at(seconds)).await.unwrap().is_empty()
    };
    assert!(!overdue(&mut conn, 30).await);
    assert!(overdue(&mut conn, 31).await);
    let beat = async |conn: &mut PgConnection, worker: &str, jobs: &[JobId]| {
        workers::heartbeat(conn, &label(worker), jobs, at(31), at(61)).await.unwrap();
    };
    beat(&mut conn, "worker-1", &[]).await;
    beat(&mut conn, "worker-2", &[JobId(id(10))]).await;
    assert!(overdue(&mut conn, 31).await, "nobody else's heartbeat counts");
    beat(&mut conn, "worker-1", &[JobId(id(10))]).await;
    assert!(!overdue(&mut conn, 61).await);
    workers::heartbeat(&mut conn, &label("worker-1"), &[JobId(id(10))], at(31), at(200)).await.unwrap();
    assert!(!overdue(&mut conn, 100).await);
    assert!(overdue(&mut conn, 101).await, "the deadline holds");
    jobs::must_end(&mut conn, JobId(id(10)), at(110)).await.unwrap();
    assert!(overdue(&mut conn, 101).await, "it is not put off");
    jobs::must_end(&mut conn, JobId(id(10)), at(90)).await.unwrap();
    assert!(overdue(&mut conn, 91).await);
    jobs::renew_leases(&mut conn, at(300), time::Duration::ZERO, at(0)..=at(0)).await.unwrap();
    assert!(!overdue(&mut conn, 300).await, "we were away, and its result may be on the way");
    assert!(overdue(&mut conn, 301).await);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_cancel_is_done_requested_or_too_late(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let queued = deploy(&mut conn, 10, "a", 0).await;
    assert_eq!(jobs::request_cancel(&mut conn, queued, NOW).await.unwrap(), Cancel::Done);
    assert_eq!(jobs::request_cancel(&mut conn, queued, NOW).await.unwrap(), Cancel::TooLate);

    let running = deploy(&mut conn, 11, "a", 1).await;
    let instance = instance(&mut conn, 20, running).await;
    start(&mut conn, 11, instance, 30, 900).await;
    let (job_id, worker) = (JobId(id(11)), label("worker-1"));
    assert_eq!(jobs::request_cancel(&mut conn, running, NOW).await.unwrap(), Cancel::Requested);
    assert_eq!(jobs::called_off(&mut conn).await.unwrap(), [(job_id, worker.clone())]);

    assert!(jobs::lock(&mut conn, &label("worker-2"), job_id).await.unwrap().is_none(), "not its job");
    let job = jobs::lock(&mut conn, &worker, job_id).await.unwrap().unwrap();
    assert_eq!((job.kind, job.state, job.run.cancel_requested), (JobKind::Deploy, JobState::Running, true));
}
