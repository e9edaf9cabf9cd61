//! Instances that end, that outlive the worker, and that somebody removes, on the engine in memory.

use crate::support::{Worker, start_in_memory};
use std::{collections::BTreeMap, fs, path::Path};
use tokio::sync::mpsc;
use uuid::Uuid;
use wisehosting_containers::{Build, ContainerId, ContainerSpec, ContainerState, Engine, fake::FakeEngine};
use wisehosting_domain::{id::InstanceId, limits::Limits};
use wisehosting_protocol::message::AgentMessage;

const INSTANCE: InstanceId = InstanceId(Uuid::from_u128(7));

/// A container of the platform that an earlier worker has started.
async fn container(engine: &FakeEngine, dir: &Path) -> ContainerId {
    let dockerfile = "FROM scratch\nCMD [\"echo hello; serve\"]\n";
    fs::write(dir.join("Dockerfile"), dockerfile).expect("written");
    let build = Build {
        name: "x".to_owned(),
        context: dir.to_owned(),
        dockerfile: "Dockerfile".into(),
        network: "x".to_owned(),
        memory_bytes: 0,
        cpu_millis: 2_000,
        processes_max: 0,
        tag: "localhost/x:1".to_owned(),
        labels: BTreeMap::new(),
    };
    let (log, _received) = mpsc::channel(16);
    let image = engine.build(&build, log).await.expect("an image").id;
    let spec = ContainerSpec {
        name: "x".to_owned(),
        image,
        limits: Limits::default(),
        labels: BTreeMap::from([("wisehosting.instance".to_owned(), INSTANCE.to_string())]),
        env: BTreeMap::new(),
        network: "x".to_owned(),
        read_only: false,
        published: ([10, 50, 0, 11], 20_000).into(),
        port: 8080,
    };
    engine.run(&spec).await.expect("a container")
}

async fn status(worker: &mut Worker) -> (bool, Option<i64>) {
    worker
        .wait("status of an instance", |message| match message {
            AgentMessage::AppStatus(status) => {
                assert_eq!(status.instance_id, INSTANCE);
                Some((status.running, status.exit_code))
            }
            _ => None,
        })
        .await
}

#[tokio::test]
async fn an_instance_that_ends_is_reported_and_started_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    assert_eq!(status(&mut worker).await, (true, None), "it is found by its label");
    engine.crash(&id, 3);
    assert_eq!(status(&mut worker).await, (false, Some(3)));
    assert_eq!(status(&mut worker).await, (true, None));
    assert_eq!(engine.container(&id).await.expect("the container").state, ContainerState::Running);
}

#[tokio::test]
async fn what_ended_while_the_worker_was_away_is_started_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    engine.crash(&id, 137);
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    assert_eq!(status(&mut worker).await, (false, Some(137)));
    assert_eq!(status(&mut worker).await, (true, None));
}

#[tokio::test]
async fn every_state_is_told_again_to_a_new_connection() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine, dir.path()).await;
    assert_eq!(status(&mut worker).await, (true, None));
    worker.connect().await;
    assert_eq!(status(&mut worker).await, (true, None));
}

#[tokio::test]
async fn a_container_that_somebody_removed_is_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    assert_eq!(status(&mut worker).await, (true, None));
    engine.remove(&id).await.expect("removed");
    assert_eq!(status(&mut worker).await, (false, None));
}
