//! A worker that is emptied: its apps come up elsewhere before they end there.

use std::net::SocketAddr;

use sqlx::PgPool;
use wisehosting_domain::state::{DeploymentState::*, InstanceState};
use wisehosting_node::clock::Clock as _;
use wisehosting_protocol::payload::{Outcome, Work};
use wisehosting_store::{DeclaredNode, MIGRATOR, deployments, pool, rollout, workers};

use crate::{
    agent::{Agent, deployed_at},
    deploy::{agents, live_app, upstreams},
    platform::{Platform, USER, label},
};

impl Platform {
    async fn drain(&self, worker: &str) {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        workers::drain(&mut connection, &label(worker), Some(self.clock.now())).await.unwrap();
        self.state.signals.rollout.notify_one();
    }

    /// The configuration names no worker but worker-2 any more.
    async fn remove_worker_1(&self) {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        let worker_2 = DeclaredNode { name: label("worker-2"), address: [10, 50, 0, 12].into() };
        workers::declare(&mut connection, &[worker_2], self.clock.now()).await.unwrap();
        self.state.signals.rollout.notify_one();
    }

    pub(crate) async fn is_at_rest(&self) -> bool {
        rollout::restless(&mut pool::acquire(&self.state.pool).await.unwrap()).await.unwrap().is_empty()
    }
}

/// The other worker is given the same commit and image, and proves it; the edge serves it.
async fn moves(platform: &Platform, other: &mut Agent, edge: &mut Agent) {
    let job = other.deploy_job().await;
    let Work::Deploy(deploy) = &job.work else { unreachable!() };
    let commit = deploy.source.commit.as_ref().map(ToString::to_string);
    assert_eq!(commit.as_deref(), Some("0123456789012345678901234567890123456789"));
    assert_eq!(deploy.image_id.as_deref(), Some("sha256:00"));
    let id = deploy.deployment_id;
    let address = SocketAddr::from(([10, 50, 0, 12], 20_001));
    other.finish(&job, deployed_at(address)).await;
    let table = edge.table().await;
    assert_eq!(upstreams(&table, "hello.localhost"), [address], "it was served until now, and is now");
    edge.serves(table.generation).await;
    platform.reaches(id, Live).await;
    edge.has_drained(table.generation).await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_apps_of_a_drained_worker_are_served_elsewhere_before_they_are_stopped(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    let first = live_app(&platform, &mut worker, &mut edge).await;
    let mut other = Agent::worker(&platform, "worker-2").await;
    platform.drain("worker-1").await;
    moves(&platform, &mut other, &mut edge).await;
    let stop = worker.stop_job().await;
    worker.finish(&stop, Outcome::Stopped).await;
    platform.instance_reaches(first, InstanceState::Stopped).await;

    platform.create_app("next").await;
    platform.deploy("next").await;
    assert_eq!(other.deploy_job().await.app.as_str(), "next", "a drained worker gets nothing new");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_apps_of_a_removed_worker_are_served_there_until_they_are_elsewhere(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    let first = live_app(&platform, &mut worker, &mut edge).await;
    platform.remove_worker_1().await;
    let mut other = Agent::worker(&platform, "worker-2").await;
    moves(&platform, &mut other, &mut edge).await;
    // Nobody is there who could be told to stop it.
    platform.instance_reaches(first, InstanceState::Failed).await;
    let mut connection = pool::acquire(&platform.state.pool).await.unwrap();
    let names = workers::list(&mut connection).await.unwrap().into_iter().map(|worker| worker.name);
    assert_eq!(names.collect::<Vec<_>>(), [label("worker-2")], "it is forgotten once it is empty");
    drop(connection);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_move_that_fails_changes_nothing_and_is_not_tried_for_ever(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    let first = live_app(&platform, &mut worker, &mut edge).await;
    let mut other = Agent::worker(&platform, "worker-2").await;
    platform.drain("worker-1").await;
    let job = other.deploy_job().await;
    other.finish(&job, Outcome::Failed { message: "the repository is gone".to_owned() }).await;
    platform.eventually(async || if platform.is_at_rest().await { Ok(()) } else { Err(String::new()) }).await;
    assert_eq!(platform.deployment(first).await.state, Live);
    assert_eq!(platform.instance_states(first).await, [InstanceState::Healthy]);

    // Who says it again asks for another attempt.
    platform.drain("worker-1").await;
    let job = other.deploy_job().await;
    let Work::Deploy(deploy) = &job.work else { unreachable!() };
    let mut connection = pool::acquire(&platform.state.pool).await.unwrap();
    let again = deployments::get(&mut connection, USER, deploy.deployment_id).await.unwrap();
    assert_eq!((again.number, again.built.repeats), (3, Some(first)));
    drop(connection);
    platform.stop().await;
}
