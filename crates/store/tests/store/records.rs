//! What agents report: kept once, in order, and only from who may say it.

use sqlx::PgPool;
use wisehosting_domain::{
    id::JobId,
    state::{DeploymentState::*, InstanceState, JobState},
};
use wisehosting_store::{
    DeclaredNode, MIGRATOR, PgConnection, StoreError,
    build_log::{self, Line},
    deployment_state, deployments,
    instances::{self, Before, Observation},
    jobs::{self, Run},
    pool, rollout, routes, users,
    workers::{self, Share},
};

use crate::fixture::{NOW, USER, app, at, deploy, id, instance, label, platform};

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_deployment_moves_forwards_only(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let deployment = deploy(&mut conn, 10, "a", 0).await;
    for (seconds, state, moves) in
        [(1, Building, true), (2, Cloning, false), (3, Building, false), (4, Routing, true), (5, Live, true)]
    {
        let moved = deployment_state::advance(&mut conn, deployment, state, at(seconds)).await.unwrap();
        assert_eq!(moved, moves, "{state}");
    }
    assert!(!deployment_state::fail(&mut conn, deployment, "too late", at(6)).await.unwrap());
    assert!(deployment_state::advance(&mut conn, deployment, Superseded, at(7)).await.unwrap());
    let stored = deployments::get(&mut conn, USER, deployment).await.unwrap();
    assert_eq!((stored.state, stored.message, stored.finished_at), (Superseded, None, Some(at(5))));
    let steps = deployments::steps(&mut conn, USER, deployment).await.unwrap();
    let steps: Vec<_> = steps.iter().map(|step| (step.state, step.at)).collect();
    assert_eq!(
        steps,
        [(Queued, at(0)), (Building, at(1)), (Routing, at(4)), (Live, at(5)), (Superseded, at(7))]
    );
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_older_observation_is_ignored(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let deployment = deploy(&mut conn, 10, "a", 0).await;
    let instance = instance(&mut conn, 20, deployment).await;
    let seen = |running: bool, seconds| Observation {
        running,
        exit_code: None,
        stopped: !running,
        observed_at: at(seconds),
    };
    let before = |stopped| Some(Before { state: InstanceState::Starting, stopped });
    for (worker, observation, news) in [
        ("worker-1", seen(true, 5), before(false)),
        ("worker-2", seen(false, 9), None),
        ("worker-1", seen(false, 6), before(false)),
        ("worker-1", seen(true, 7), before(true)),
        // Its clock was put back.
        ("worker-1", seen(false, 1), before(false)),
    ] {
        let told = instances::observe(&mut conn, &label(worker), instance, observation).await.unwrap();
        assert_eq!(told, news, "{worker} {observation:?}");
    }
    let stored = deployments::instances(&mut conn, USER, deployment).await.unwrap();
    assert_eq!((stored[0].running, stored[0].observed_at), (Some(false), Some(at(1))));
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_line_of_a_build_log_is_stored_once_and_from_its_worker_only(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let deployment = deploy(&mut conn, 10, "a", 0).await;
    let instance = instance(&mut conn, 20, deployment).await;
    let run = Run { lease_expires_at: None, deadline_at: None, acked: false, cancel_requested: false };
    jobs::start(&mut conn, JobId(id(10)), &label("worker-1"), instance, NOW, run).await.unwrap();
    let line =
        |number, text: &str| Line { number, at: NOW, stream: "stdout".to_owned(), text: text.to_owned() };
    let worker = label("worker-1");
    let both = [line(0, "a"), line(1, "b")];
    assert_eq!(build_log::append(&mut conn, &worker, deployment, &both).await.unwrap(), 2);
    let more = [line(1, "B"), line(2, "c")];
    assert_eq!(build_log::append(&mut conn, &worker, deployment, &more).await.unwrap(), 1);
    let foreign = [line(3, "x")];
    assert_eq!(build_log::append(&mut conn, &label("worker-2"), deployment, &foreign).await.unwrap(), 0);
    let texts: Vec<_> = build_log::read(&mut conn, USER, deployment, 1, 10).await.unwrap();
    assert_eq!(texts, [line(1, "b"), line(2, "c")]);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_worker_counts_what_its_instances_may_use(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    let deployment = deploy(&mut conn, 10, "a", 0).await;
    let instance = instance(&mut conn, 20, deployment).await;
    let capacity = Share { memory_bytes: 1 << 30, cpu_millis: 4_000 };
    workers::connected(&mut conn, &label("worker-1"), "1", capacity, NOW).await.unwrap();
    let listed = workers::list(&mut conn).await.unwrap();
    let used = Share { memory_bytes: 256 << 20, cpu_millis: 1_000 };
    assert_eq!((listed[0].capacity, listed[0].used, listed[0].instances), (capacity, used, 1));
    assert_eq!((listed[1].used, listed[1].instances), (Share::default(), 0));

    let failed = InstanceState::Failed;
    instances::set_state(&mut conn, instance, failed).await.unwrap();
    assert_eq!(workers::list(&mut conn).await.unwrap()[0].used, Share::default());
    workers::declare(&mut conn, &[], NOW).await.unwrap();
    assert!(workers::list(&mut conn).await.unwrap().is_empty());
    jobs::finish(&mut conn, JobId(id(10)), JobState::Failed, None, NOW).await.unwrap();
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_removed_worker_leaves_nothing_open(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    let app = app(&mut conn, 1, "a").await;
    let deployment = deploy(&mut conn, 10, "a", 0).await;
    let (serving, stopping) =
        (instance(&mut conn, 20, deployment).await, instance(&mut conn, 21, deployment).await);
    instances::healthy(&mut conn, serving, ([10, 50, 0, 11], 20_001).into()).await.unwrap();
    routes::set_domain(&mut conn, &"example.org".parse().unwrap()).await.unwrap();
    rollout::route(&mut conn, app, Some(deployment), NOW).await.unwrap();
    jobs::enqueue_stop(&mut conn, JobId(id(30)), stopping, NOW).await.unwrap();
    let before = routes::load(&mut conn).await.unwrap();

    deployment_state::advance(&mut conn, deployment, Live, NOW).await.unwrap();

    let worker_2 = DeclaredNode { name: label("worker-2"), address: [10, 50, 0, 12].into() };
    let states = async |conn: &mut PgConnection| {
        let instances = deployments::instances(conn, USER, deployment).await.unwrap();
        instances.iter().map(|instance| instance.state).collect::<Vec<_>>()
    };
    for round in 1..=2 {
        workers::declare(&mut conn, std::slice::from_ref(&worker_2), at(round)).await.unwrap();
        let job = jobs::lock(&mut conn, &label("worker-1"), JobId(id(30))).await.unwrap().unwrap();
        assert_eq!(job.state, JobState::Failed);
        assert_eq!(states(&mut conn).await, [InstanceState::Healthy, InstanceState::Failed]);
        assert_eq!(routes::load(&mut conn).await.unwrap(), before, "what serves goes on until it has moved");
        let listed = workers::list(&mut conn).await.unwrap();
        assert_eq!((listed[0].name.as_str(), listed[0].draining, listed[0].instances), ("worker-1", true, 1));
        assert_eq!(rollout::restless(&mut conn).await.unwrap(), [app]);
    }
    assert!(!before.routes.is_empty());

    jobs::enqueue_stop(&mut conn, JobId(id(31)), serving, at(3)).await.unwrap();
    assert_eq!(states(&mut conn).await, [InstanceState::Failed; 2]);
    assert!(jobs::lock(&mut conn, &label("worker-1"), JobId(id(31))).await.unwrap().is_none());
    assert_eq!(workers::list(&mut conn).await.unwrap().len(), 1);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_worker_is_drained_until_it_is_resumed_or_declared_anew(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    let draining = async |conn: &mut PgConnection| workers::list(conn).await.unwrap()[0].draining;
    let declared = |name: &str, last| DeclaredNode { name: label(name), address: [10, 50, 0, last].into() };
    let both = [declared("worker-1", 11), declared("worker-2", 12)];

    workers::drain(&mut conn, &label("worker-1"), Some(NOW)).await.unwrap();
    workers::declare(&mut conn, &both, at(1)).await.unwrap();
    assert!(draining(&mut conn).await, "a restart of the control plane changes nothing");
    workers::drain(&mut conn, &label("worker-1"), None).await.unwrap();
    assert!(!draining(&mut conn).await);

    workers::drain(&mut conn, &label("worker-1"), Some(NOW)).await.unwrap();
    workers::declare(&mut conn, &both[1..], at(2)).await.unwrap();
    let gone = workers::drain(&mut conn, &label("worker-1"), None).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
    workers::declare(&mut conn, &both, at(3)).await.unwrap();
    assert!(!draining(&mut conn).await);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_revoked_token_is_nobodys(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    let token = [1; 32];
    users::create_api_token(&mut conn, &token, USER, "laptop", NOW).await.unwrap();
    for (email, name) in [("me@example.org", "phone"), ("you@example.org", "laptop")] {
        let wrong = users::delete_api_token(&mut conn, email, name).await;
        assert!(matches!(wrong, Err(StoreError::NotFound { .. })), "{wrong:?}");
    }
    assert_eq!(users::by_api_token(&mut conn, &token).await.unwrap().id, USER);
    users::delete_api_token(&mut conn, "Me@example.org", "laptop").await.unwrap();
    assert!(users::by_api_token(&mut conn, &token).await.is_err());
}
