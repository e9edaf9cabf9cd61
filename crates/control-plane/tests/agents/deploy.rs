//! The life of a deploy, as worker and edge see it.

use std::net::SocketAddr;

use sqlx::PgPool;
use wisehosting_domain::{
    id::DeploymentId,
    name::Hostname,
    routes::RouteTable,
    state::{DeploymentState::*, InstanceState},
};
use wisehosting_node::channel::Role;
use wisehosting_protocol::{
    message::HubMessage,
    payload::{BuildLog, LogLine, Outcome, Stream, Work},
};
use wisehosting_store::{MIGRATOR, build_log, pool, rollout, routes};

use crate::{
    agent::{Agent, deployed},
    platform::{Platform, USER},
};

pub(crate) fn upstreams(table: &RouteTable, hostname: &str) -> Vec<SocketAddr> {
    let hostname: Hostname = hostname.parse().unwrap();
    let route = table.routes.get(&hostname);
    route.into_iter().flat_map(|route| &route.upstreams).map(|upstream| upstream.address).collect()
}

fn at(port: u16) -> Vec<SocketAddr> {
    vec![([10, 50, 0, 11], port).into()]
}

/// An app that is live on port 20001.
pub(crate) async fn live_app(platform: &Platform, worker: &mut Agent, edge: &mut Agent) -> DeploymentId {
    platform.create_app("hello").await;
    let first = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    let table = edge.table().await;
    edge.serves(table.generation).await;
    platform.reaches(first, Live).await;
    edge.has_drained(table.generation).await;
    first
}

/// Both agents; the edge has the table that was there before.
pub(crate) async fn agents(platform: &Platform) -> (Agent, Agent) {
    let worker = Agent::worker(platform, "worker-1").await;
    let mut edge = Agent::edge(platform, "proxy-1").await;
    assert!(edge.table().await.routes.is_empty());
    (worker, edge)
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_deploy_goes_from_the_queue_to_the_edge(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;

    let job = worker.deploy_job().await;
    let Work::Deploy(deploy) = &job.work else { unreachable!() };
    assert_eq!((job.app.as_str(), deploy.deployment_id, deploy.port), ("hello", id, 8080));
    assert_eq!(deploy.environment["KEY"].expose(), "value");
    assert!((890_000..=900_000).contains(&deploy.deadline_ms), "{}", deploy.deadline_ms);
    worker.ack(&job).await;
    for state in [Cloning, Building, Cloning, Starting, Checking] {
        worker.status(&job, state).await;
    }
    let line = |text: &str| LogLine {
        at: "2026-01-01T00:00:00Z".to_owned(),
        stream: Stream::Stdout,
        text: text.to_owned(),
    };
    // As after a lost connection: the second batch repeats a line of the first.
    worker.send(BuildLog { deployment_id: id, first_line: 0, lines: vec![line("a"), line("b\0")] }).await;
    worker.send(BuildLog { deployment_id: id, first_line: 1, lines: vec![line("b"), line("c")] }).await;
    worker.finish(&job, deployed(20_001)).await;

    let table = edge.table().await;
    assert_eq!(upstreams(&table, "hello.localhost"), at(20_001));
    assert_eq!(platform.deployment(id).await.state, Routing, "the edge has not said that it serves it");
    edge.serves(table.generation).await;
    let deployment = platform.reaches(id, Live).await;
    assert_eq!(deployment.built.image_id.as_deref(), Some("sha256:00"));
    assert_eq!(platform.steps(id).await, [Queued, Cloning, Building, Starting, Checking, Routing, Live]);
    let mut connection = pool::acquire(&platform.state.pool).await.unwrap();
    let log = build_log::read(&mut connection, USER, id, 0, 10).await.unwrap();
    assert_eq!(log.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["a", "b\u{fffd}", "c"]);
    drop(connection);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_redeploy_switches_drains_and_stops_the_old_instance(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    live_app(&platform, &mut worker, &mut edge).await;

    let second = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_002)).await;
    let table = edge.table().await;
    assert_eq!(upstreams(&table, "hello.localhost"), at(20_002));
    edge.serves(table.generation).await;
    platform.reaches(second, Live).await;
    edge.has_drained(table.generation).await;
    let stop = worker.stop_job().await;
    worker.finish(&stop, Outcome::Stopped).await;

    platform.instance_reaches(second, InstanceState::Healthy).await;
    let apps = rollout::restless(&mut pool::acquire(&platform.state.pool).await.unwrap()).await.unwrap();
    assert!(apps.is_empty(), "the app is at rest");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_failed_build_says_why_and_changes_nothing_else(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    live_app(&platform, &mut worker, &mut edge).await;

    let second = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, Outcome::Failed { message: "There is no Dockerfile.".to_owned() }).await;
    let failed = platform.reaches(second, Failed).await;
    assert_eq!(failed.message.as_deref(), Some("There is no Dockerfile."));
    assert_eq!(platform.instance_states(second).await, [InstanceState::Failed]);
    let table = routes::load(&mut pool::acquire(&platform.state.pool).await.unwrap()).await.unwrap();
    assert_eq!(upstreams(&table, "hello.localhost"), at(20_001));
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_edge_that_cannot_reach_the_new_instance_gets_the_old_one_back(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    live_app(&platform, &mut worker, &mut edge).await;

    let second = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_002)).await;
    let table = edge.table().await;
    edge.cannot_reach(table.generation, job.instance_id).await;
    let failed = platform.reaches(second, Failed).await;
    assert_eq!(
        failed.message.as_deref(),
        Some("edge proxy-1 cannot reach the new instance: connection refused")
    );
    let table = edge.table().await;
    assert_eq!(upstreams(&table, "hello.localhost"), at(20_001));
    edge.serves(table.generation).await;
    edge.has_drained(table.generation).await;
    assert_eq!(worker.stop_job().await.instance_id, job.instance_id);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_edge_that_was_away_gets_the_newest_table(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    live_app(&platform, &mut worker, &mut edge).await;
    drop(edge);
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    assert_eq!(upstreams(&edge.table().await, "hello.localhost"), at(20_001));
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn no_edge_is_too_late_because_the_clock_was_set(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    for app in ["other", "hello"] {
        platform.create_app(app).await;
    }
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    let table = edge.table().await;
    platform.clock.advance(std::time::Duration::from_secs(3_600));
    // That is done in the next round, too.
    platform.delete_app("other").await;
    platform
        .eventually(async || {
            let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM apps");
            let left = count.fetch_one(&platform.state.pool).await.unwrap();
            if left == 1 { Ok(()) } else { Err(format!("{left} apps")) }
        })
        .await;
    edge.serves(table.generation).await;
    platform.reaches(id, Live).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_deleted_app_leaves_nothing(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    live_app(&platform, &mut worker, &mut edge).await;
    platform.deploy("hello").await;
    let building = worker.deploy_job().await;

    platform.delete_app("hello").await;
    let table = edge.table().await;
    assert!(table.routes.is_empty());
    edge.serves(table.generation).await;
    edge.has_drained(table.generation).await;
    // The instance is stopped and the build called off, in whatever order.
    let mut acknowledged = 0;
    while acknowledged < 2 {
        match worker.next().await {
            HubMessage::Job(job) if matches!(job.work, Work::Stop(_)) => {
                worker.result(&job, Outcome::Stopped).await;
            }
            HubMessage::JobCancel(cancel) => {
                assert_eq!(cancel.0.job_id, building.job_id);
                worker.result(&building, Outcome::Cancelled).await;
            }
            HubMessage::ResultAck(_) => acknowledged += 1,
            message => panic!("{message:?}"),
        }
    }
    let apps = async || {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM apps");
        count.fetch_one(&platform.state.pool).await.unwrap()
    };
    let delete = worker.delete_job().await;
    worker.finish(&delete, Outcome::Failed { message: "the engine is away".to_owned() }).await;
    platform.clock.advance(std::time::Duration::from_secs(31));
    assert_eq!(apps().await, 1, "its worker still has something of it");
    platform.state.signals.jobs.notify_one();
    assert_eq!(worker.delete_job().await.job_id, delete.job_id, "it is tried again");
    worker.finish(&delete, Outcome::Deleted).await;
    platform
        .eventually(async || {
            let left = apps().await;
            if left == 0 { Ok(()) } else { Err(format!("{left} apps")) }
        })
        .await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_stopped_app_is_not_served_until_it_is_started(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, mut edge) = agents(&platform).await;
    let first = live_app(&platform, &mut worker, &mut edge).await;

    platform.stop_app("hello").await;
    let table = edge.table().await;
    assert!(table.routes.is_empty());
    platform.reaches(first, Stopped).await;
    edge.serves(table.generation).await;
    edge.has_drained(table.generation).await;
    let stop = worker.stop_job().await;
    worker.finish(&stop, Outcome::Stopped).await;
    let apps = rollout::restless(&mut pool::acquire(&platform.state.pool).await.unwrap()).await.unwrap();
    assert!(apps.is_empty(), "the app is at rest");

    let second = platform.repeat("hello", first).await;
    let job = worker.deploy_job().await;
    let Work::Deploy(deploy) = &job.work else { unreachable!() };
    assert_eq!(deploy.image_id.as_deref(), Some("sha256:00"));
    worker.finish(&job, deployed(20_002)).await;
    let table = edge.table().await;
    assert_eq!(upstreams(&table, "hello.localhost"), at(20_002));
    edge.serves(table.generation).await;
    platform.reaches(second, Live).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn stopping_an_app_calls_off_what_is_being_deployed(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (mut worker, _edge) = agents(&platform).await;
    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    platform.stop_app("hello").await;
    let message = worker.next().await;
    assert!(
        matches!(&message, HubMessage::JobCancel(cancel) if cancel.0.job_id == job.job_id),
        "{message:?}"
    );
    worker.finish(&job, Outcome::Cancelled).await;
    platform.reaches(id, Cancelled).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_restart_in_the_middle_changes_nothing(pool: PgPool) {
    let platform = Platform::start(pool.clone()).await;
    let (mut worker, mut edge) = agents(&platform).await;
    live_app(&platform, &mut worker, &mut edge).await;
    let second = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.ack(&job).await;
    worker.status(&job, Building).await;
    platform.reaches(second, Building).await;
    drop((worker, edge));
    platform.stop().await;

    // The worker went on meanwhile.
    let platform = Platform::start(pool.clone()).await;
    let mut worker = Agent::connect(&platform, Role::Worker, "worker-1", &[job.job_id]).await;
    worker.finish(&job, deployed(20_002)).await;
    platform.reaches(second, Routing).await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    while upstreams(&edge.table().await, "hello.localhost") != at(20_002) {}
    drop((worker, edge));
    platform.stop().await;

    // The edge holds the new table already.
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let table = edge.table().await;
    edge.serves(table.generation).await;
    edge.has_drained(table.generation).await;
    platform.reaches(second, Live).await;
    worker.stop_job().await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_app_that_the_route_table_cannot_hold_is_refused(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    // Many others, in service as they are.
    let mut connection = pool::acquire(&platform.state.pool).await.unwrap();
    for statement in [
        "SET session_replication_role = replica",
        "CREATE TEMPORARY TABLE others AS
         SELECT n, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid AS id FROM generate_series(1, 9000) n",
        "INSERT INTO instances SELECT (jsonb_populate_record(i, jsonb_build_object(
             'id', o.id, 'deployment_id', o.id, 'memory_bytes', 0, 'cpu_millis', 0))).*
         FROM instances i, others o",
        "INSERT INTO apps SELECT (jsonb_populate_record(a, jsonb_build_object(
             'id', o.id, 'name', 'a' || lpad(o.n::text, 62, 'x'), 'routed_deployment_id', o.id))).*
         FROM apps a, others o",
        "RESET session_replication_role",
    ] {
        sqlx::query(statement).execute(&mut *connection).await.unwrap();
    }
    drop(connection);
    platform.create_app("one-more").await;
    let id = platform.deploy("one-more").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_002)).await;
    let failed = platform.reaches(id, Failed).await;
    let message = failed.message.unwrap();
    assert!(
        message.starts_with("The platform serves as many apps as one route table can hold."),
        "{message}"
    );
    platform.stop().await;
}
