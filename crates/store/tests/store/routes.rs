//! The route table and the rollout's snapshot of an app.

use sqlx::{PgConnection, PgPool};
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId},
    state::{DeploymentState, InstanceState},
};
use wisehosting_store::{
    MIGRATOR, deployment_state, deployments, instances, pool,
    rollout::{self, Watch},
    routes,
};

use crate::fixture::{NOW, USER, app, at, deploy, id, instance, platform};

/// An app with a deployment that is proven, on port 20001 of worker-1.
async fn proven(conn: &mut PgConnection) -> (AppId, DeploymentId, InstanceId) {
    platform(conn).await;
    routes::set_domain(conn, &"example.org".parse().unwrap()).await.unwrap();
    let app = app(conn, 1, "a").await;
    let deployment = deploy(conn, 10, "a", 0).await;
    let instance = instance(conn, 20, deployment).await;
    instances::healthy(conn, instance, ([10, 50, 0, 11], 20_001).into()).await.unwrap();
    deployment_state::advance(conn, deployment, DeploymentState::Routing, NOW).await.unwrap();
    (app, deployment, instance)
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_table_holds_what_is_routed_and_healthy(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    let (app, deployment, instance) = proven(&mut conn).await;
    let before = routes::load(&mut conn).await.unwrap();
    assert!(before.routes.is_empty());

    let generation = rollout::route(&mut conn, app, Some(deployment), NOW).await.unwrap();
    assert_eq!(generation, before.generation + 1);
    let table = routes::load(&mut conn).await.unwrap();
    assert_eq!(table.generation, generation);
    let route = &table.routes[&"a.example.org".parse().unwrap()];
    assert_eq!(route.upstreams[0].instance_id, instance);
    assert_eq!(route.upstreams[0].address, ([10, 50, 0, 11], 20_001).into());

    rollout::route(&mut conn, app, None, NOW).await.unwrap();
    assert!(routes::load(&mut conn).await.unwrap().routes.is_empty());
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn another_domain_is_another_generation(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    let mut generations = Vec::new();
    for domain in ["a.example", "a.example", "b.example"] {
        routes::set_domain(&mut conn, &domain.parse().unwrap()).await.unwrap();
        generations.push(routes::load(&mut conn).await.unwrap().generation);
    }
    assert_eq!(generations, [1, 1, 2]);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_snapshot_counts_only_the_time_in_which_edges_were_heard(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    let (app, deployment, instance) = proven(&mut conn).await;
    assert_eq!(rollout::restless(&mut conn).await.unwrap(), [app]);
    let generation = rollout::route(&mut conn, app, Some(deployment), at(10)).await.unwrap();
    rollout::drain(&mut conn, instance, at(20)).await.unwrap();

    let awake = Watch { since: at(0), now: at(50) };
    let snapshot = rollout::lock(&mut conn, app, awake).await.unwrap().unwrap();
    let routed = snapshot.routed.unwrap();
    assert_eq!((routed.generation, routed.age_ms), (generation, 40_000));
    let drained = snapshot.deployments[0].instances[0];
    assert_eq!(drained.state, InstanceState::Draining);
    assert_eq!(drained.draining.map(|d| (d.generation, d.age_ms)), Some((generation, 30_000)));

    let restarted = Watch { since: at(45), now: at(50) };
    let snapshot = rollout::lock(&mut conn, app, restarted).await.unwrap().unwrap();
    assert_eq!(snapshot.routed.unwrap().age_ms, 5_000);
    assert!(rollout::lock(&mut conn, AppId(id(99)), awake).await.unwrap().is_none());
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_app_at_rest_is_left_alone(pool: PgPool) {
    let mut conn = pool::acquire(&pool).await.unwrap();
    let (app, deployment, instance) = proven(&mut conn).await;
    rollout::route(&mut conn, app, Some(deployment), NOW).await.unwrap();
    deployment_state::advance(&mut conn, deployment, DeploymentState::Live, NOW).await.unwrap();
    assert!(rollout::restless(&mut conn).await.unwrap().is_empty());
    rollout::remove(&mut conn, app).await.unwrap();
    let kept = deployments::instances(&mut conn, USER, deployment).await.unwrap();
    assert_eq!(kept[0].id, instance, "it is not deleted");
}
