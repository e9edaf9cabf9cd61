//! Deployments that are over: remembered up to a number, and as long as something hangs on them.

use sqlx::{PgConnection, PgPool};
use wisehosting_domain::{
    id::{DeploymentId, InstanceId, JobId},
    state::{DeploymentState, InstanceState, JobState},
};
use wisehosting_store::{
    MIGRATOR, deployment_state, deployments,
    instances::{self, NewInstance},
    jobs, pool,
};

use crate::fixture::{USER, app, at, deploy, id, label, platform};

/// Deployment `n` of app `a`, which is over, with an instance of the same id on `worker` that is gone.
async fn ended(conn: &mut PgConnection, n: u128, state: DeploymentState, worker: Option<&str>) {
    let seconds = i64::try_from(n).unwrap();
    let deployment_id = deploy(conn, n, "a", seconds).await;
    if let Some(worker) = worker {
        let worker = label(worker);
        let instance = InstanceId(id(n));
        let limits = wisehosting_domain::limits::Limits::default();
        let new = NewInstance { id: instance, deployment_id, worker: &worker, limits };
        instances::create(conn, &new, at(seconds)).await.unwrap();
        instances::set_state(conn, instance, InstanceState::Stopped).await.unwrap();
    }
    if state == DeploymentState::Failed {
        jobs::finish(conn, JobId(id(n)), JobState::Failed, None, at(seconds)).await.unwrap();
        deployment_state::fail(conn, deployment_id, "it broke", at(seconds)).await.unwrap();
    } else {
        jobs::finish(conn, JobId(id(n)), JobState::Succeeded, None, at(seconds)).await.unwrap();
        for state in [DeploymentState::Live, state] {
            deployment_state::advance(conn, deployment_id, state, at(seconds)).await.unwrap();
        }
    }
}

async fn numbers(conn: &mut PgConnection) -> Vec<i32> {
    let all = deployments::list(conn, USER, None, 100).await.unwrap();
    let mut numbers: Vec<_> = all.iter().map(|deployment| deployment.number).collect();
    numbers.sort_unstable();
    numbers
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_newest_of_both_kinds_are_kept_and_the_last_of_each_worker(pool: PgPool) {
    use DeploymentState::{Failed, Live, Superseded};
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    ended(&mut conn, 1, Superseded, Some("worker-2")).await;
    ended(&mut conn, 2, Superseded, Some("worker-1")).await;
    ended(&mut conn, 3, Failed, None).await;
    ended(&mut conn, 4, Superseded, Some("worker-1")).await;
    ended(&mut conn, 5, Failed, Some("worker-1")).await;
    ended(&mut conn, 6, Live, None).await;
    deploy(&mut conn, 7, "a", 7).await;

    assert_eq!(deployments::prune(&mut conn, 2).await.unwrap(), 0, "1 is the last on worker-2");
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 2);
    assert_eq!(numbers(&mut conn).await, [1, 4, 5, 6, 7]);
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 0);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn one_whose_instance_is_to_be_stopped_is_kept_until_it_is(pool: PgPool) {
    use DeploymentState::Failed;
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    app(&mut conn, 1, "a").await;
    ended(&mut conn, 1, Failed, Some("worker-1")).await;
    ended(&mut conn, 2, Failed, Some("worker-1")).await;
    let (instance, stop) = (InstanceId(id(1)), JobId(id(100)));
    instances::set_state(&mut conn, instance, InstanceState::Starting).await.unwrap();
    jobs::enqueue_stop(&mut conn, stop, instance, at(3)).await.unwrap();
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 0);

    jobs::finish(&mut conn, stop, JobState::Succeeded, None, at(4)).await.unwrap();
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 0, "its instance may still run");
    instances::set_state(&mut conn, instance, InstanceState::Stopped).await.unwrap();
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 1);
    assert_eq!(numbers(&mut conn).await, [2]);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn that_a_live_one_was_tried_to_be_moved_is_remembered(pool: PgPool) {
    use DeploymentState::{Failed, Live};
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    let app = app(&mut conn, 1, "a").await;
    ended(&mut conn, 1, Live, Some("worker-1")).await;
    let live = DeploymentId(id(1));
    let settings = deployments::to_repeat(&mut conn, live).await.unwrap();
    let moved = DeploymentId(id(2));
    deployments::create(&mut conn, app, moved, &settings, Some(live), at(2)).await.unwrap();
    deployment_state::fail(&mut conn, moved, "no worker", at(2)).await.unwrap();
    ended(&mut conn, 3, Failed, None).await;
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 0);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn one_whose_image_is_started_again_is_kept_until_it_is_up(pool: PgPool) {
    use DeploymentState::Superseded;
    let mut conn = pool::acquire(&pool).await.unwrap();
    platform(&mut conn).await;
    let app = app(&mut conn, 1, "a").await;
    ended(&mut conn, 1, Superseded, None).await;
    ended(&mut conn, 2, Superseded, None).await;
    let first = DeploymentId(id(1));
    let settings = deployments::to_repeat(&mut conn, first).await.unwrap();
    let (again, job) = (DeploymentId(id(3)), JobId(id(3)));
    deployments::create(&mut conn, app, again, &settings, Some(first), at(3)).await.unwrap();
    jobs::enqueue_deploy(&mut conn, job, app, again, at(3)).await.unwrap();
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 0);

    jobs::finish(&mut conn, job, JobState::Succeeded, None, at(4)).await.unwrap();
    assert_eq!(deployments::prune(&mut conn, 1).await.unwrap(), 1);
    assert_eq!(numbers(&mut conn).await, [2, 3]);
}
