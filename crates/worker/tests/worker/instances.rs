//! Instances that end, that outlive the worker, and that somebody removes, on the engine in memory.

use crate::support::{
    PATIENCE, Worker, image_in_memory, settings_in_memory, start_in_memory, start_in_memory_with, strict,
};
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};
use uuid::Uuid;
use wisehosting_containers::{
    ContainerId, ContainerSpec, ContainerState, Engine, LogPosition, fake::FakeEngine,
};
use wisehosting_domain::{id::InstanceId, limits::Limits, state::ViolationKind};
use wisehosting_node::{channel::Event, clock::SystemClock};
use wisehosting_protocol::{
    message::AgentMessage,
    payload::{AppStatus, Registered},
};
use wisehosting_worker::{host::Host, outbox::Outbox, restart::RestartPolicy};

const INSTANCE: InstanceId = InstanceId(Uuid::from_u128(7));

/// A container of the platform that an earlier worker has started.
async fn container(engine: &FakeEngine, dir: &Path) -> ContainerId {
    running(engine, dir, "echo hello; serve").await
}

async fn running(engine: &FakeEngine, dir: &Path, script: &str) -> ContainerId {
    with_labels(engine, dir, script, BTreeMap::new()).await
}

pub(crate) async fn with_labels(
    engine: &FakeEngine,
    dir: &Path,
    script: &str,
    mut labels: BTreeMap<String, String>,
) -> ContainerId {
    let image = image_in_memory(engine, dir, script, BTreeMap::new()).await;
    labels.entry("wisehosting.instance".to_owned()).or_insert(INSTANCE.to_string());
    let others =
        u16::try_from(engine.containers("wisehosting.instance").await.expect("a list").known().len());
    let port = 20_000 + others.expect("a few");
    let spec = ContainerSpec {
        name: format!("x{port}"),
        image,
        limits: Limits::default(),
        labels,
        env: BTreeMap::new(),
        network: "x".to_owned(),
        read_only: false,
        published: ([10, 50, 0, 11], port).into(),
        port: 8080,
    };
    engine.run(&spec).await.expect("a container")
}

async fn status(worker: &mut Worker) -> (bool, Option<i64>) {
    let status = whole_status(worker).await;
    (status.running, status.exit_code)
}

/// Waits for a state. The one before may be told twice: at its moment, and to a connection that began then.
async fn becomes(worker: &mut Worker, state: (bool, Option<i64>)) {
    while status(worker).await != state {}
}

async fn whole_status(worker: &mut Worker) -> AppStatus {
    worker
        .wait("status of an instance", |message| match message {
            AgentMessage::AppStatus(status) => {
                assert_eq!(status.instance_id, INSTANCE);
                Some(status.clone())
            }
            _ => None,
        })
        .await
}

/// Waits for the instance to count as stopped.
async fn stopped(worker: &mut Worker) {
    while !whole_status(worker).await.stopped {}
}

#[tokio::test]
async fn an_instance_that_ends_is_reported_and_started_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    engine.crash(&id, 3);
    becomes(&mut worker, (false, Some(3))).await;
    becomes(&mut worker, (true, None)).await;
    assert_eq!(engine.container(&id).await.expect("the container").state, ContainerState::Running);
}

#[tokio::test]
async fn what_ended_while_the_worker_was_away_is_started_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    engine.crash(&id, 3);
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    becomes(&mut worker, (false, Some(3))).await;
    becomes(&mut worker, (true, None)).await;
}

#[tokio::test]
async fn an_engine_that_cannot_start_a_program_is_asked_until_it_can() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let policy = RestartPolicy { longest_pause: strict().first_pause, ..strict() };
    let mut worker = start_in_memory_with(policy, engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    let mut refused = engine.refuse_starts(true);
    engine.crash(&id, 3);
    becomes(&mut worker, (false, Some(3))).await;
    refused.wait_for(|times| *times > policy.short_runs_max).await.expect("the engine is there");
    engine.refuse_starts(false);
    becomes(&mut worker, (true, None)).await;
}

#[tokio::test]
async fn an_instance_that_the_engine_hangs_on_holds_up_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let held = container(&engine, dir.path()).await;
    let other = InstanceId(Uuid::from_u128(8));
    let labels = BTreeMap::from([("wisehosting.instance".to_owned(), other.to_string())]);
    let id = with_labels(&engine, dir.path(), "serve", labels).await;
    for id in [&held, &id] {
        engine.crash(id, 3);
    }
    engine.hold_starts_of(&held);
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    let mut down = Vec::new();
    worker
        .wait("start of the other", |message| match message {
            AgentMessage::AppStatus(status) if !status.running => {
                down.push(status.instance_id);
                None
            }
            AgentMessage::AppStatus(status) => (status.instance_id == other).then_some(()),
            _ => None,
        })
        .await;
    assert_eq!(down[..2], [INSTANCE, other], "both are told of before anything is done");
    engine.crash(&id, 4);
    worker
        .wait("another start", |message| match message {
            AgentMessage::AppStatus(status) => (status.instance_id == other && status.running).then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn what_ends_while_nobody_listens_is_started_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    worker.disconnect().await;
    engine.crash(&id, 3);
    becomes(&mut worker, (false, Some(3))).await;
    becomes(&mut worker, (true, None)).await;
}

#[tokio::test]
async fn the_log_of_every_run_arrives_also_if_all_have_ended_before_somebody_listens() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory_with(strict(), engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    worker.disconnect().await;
    for run in 1..=strict().short_runs_max {
        engine.crash(&id, 3);
        becomes(&mut worker, (false, Some(3))).await;
        if run < strict().short_runs_max {
            becomes(&mut worker, (true, None)).await;
        }
    }
    worker.connect().await;
    let mut runs = 0;
    worker
        .wait("a line of each run", |message| match message {
            AgentMessage::RuntimeLog(log) => {
                runs += log.lines.iter().filter(|line| line.text == "hello").count();
                (runs == strict().short_runs_max as usize).then_some(())
            }
            _ => None,
        })
        .await;
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
    becomes(&mut worker, (true, None)).await;
    engine.remove(&id).await.expect("removed");
    becomes(&mut worker, (false, None)).await;
}

#[tokio::test]
async fn an_instance_that_ran_out_of_memory_is_kept_from_running() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    engine.run_out_of_memory(&id);
    let told = worker.violation().await;
    assert_eq!((told.0, told.1), (INSTANCE, ViolationKind::OutOfMemory));
    assert!(told.2.contains("Raise the limit"), "{}", told.2);

    worker.connect().await;
    assert_eq!(worker.violation().await, told, "told again to a new connection");
    stopped(&mut worker).await;
    drop(worker);
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    assert_eq!(worker.violation().await, told, "known to the next worker");
    stopped(&mut worker).await;
    let ended = ContainerState::Exited { code: 137, out_of_memory: true };
    assert_eq!(engine.container(&id).await.expect("the container").state, ended, "not started again");

    engine.remove(&id).await.expect("removed");
    becomes(&mut worker, (false, None)).await;
    drop(worker);
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    container(&engine, dir.path()).await;
    while status(&mut worker).await != (true, None) {}
    assert!(!worker.heard.iter().any(|message| matches!(message, AgentMessage::Violation(_))), "forgotten");
}

#[tokio::test(start_paused = true)]
async fn one_that_the_engine_does_not_tell_of_is_neither_gone_nor_forgiven() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    engine.run_out_of_memory(&id);
    stopped(&mut worker).await;
    worker.heard.clear();
    engine.hide(&id);
    // By the clock of the test: looks in plenty.
    sleep(Duration::from_secs(60)).await;
    engine.hide_none();
    sleep(Duration::from_secs(60)).await;
    let ended = ContainerState::Exited { code: 137, out_of_memory: true };
    assert_eq!(engine.container(&id).await.expect("the container").state, ended, "not started again");
    worker.connect().await;
    worker.violation().await;
    let gone = |message: &&AgentMessage| matches!(message, AgentMessage::AppStatus(status) if status.exit_code.is_none());
    assert_eq!(worker.heard.iter().find(gone), None);
}

/// Waits for an end that the worker is to see in so much time by the clock of the test, and nobody listens to its log.
async fn sees_an_end_within(longest: Duration, end: impl FnOnce(&FakeEngine, &ContainerId)) {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    worker.disconnect().await;
    // What the beginning has called for is over, and no look is due soon.
    sleep(Duration::from_secs(21)).await;
    let began = Instant::now();
    end(&engine, &id);
    becomes(&mut worker, (false, Some(3))).await;
    assert!(began.elapsed() <= longest, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_engines_events_tell_of_an_end_at_once() {
    sees_an_end_within(Duration::from_secs(1), |engine, id| engine.crash(id, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_of_which_no_event_tells_is_found_by_looking() {
    sees_an_end_within(Duration::from_secs(11), |engine, id| engine.crash_unnoticed(id, 3)).await;
}

#[tokio::test]
async fn one_that_ends_at_once_again_and_again_is_kept_from_running() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = running(&engine, dir.path(), "echo hello; exit 4").await;
    let mut worker = start_in_memory_with(strict(), engine.clone(), dir.path()).await;
    let (_, kind, message) = worker.violation().await;
    assert_eq!(kind, ViolationKind::CrashLoop);
    assert!(message.contains("3 times in a row, at last with exit status 4"), "{message}");
    stopped(&mut worker).await;
    let (batches, mut received) = mpsc::channel(16);
    engine.log(&id, LogPosition::default(), false, batches).await.expect("its log");
    assert_eq!(received.recv().await.expect("its lines").lines.len(), 3, "it was started three times");
}

#[tokio::test]
async fn one_that_does_not_run_for_a_while_counts_as_stopped() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let id = container(&engine, dir.path()).await;
    let first_pause = Duration::from_secs(600);
    let policy = RestartPolicy {
        first_pause,
        longest_pause: first_pause,
        stopped_after: Duration::from_millis(300),
        ..RestartPolicy::default()
    };
    let mut worker = start_in_memory_with(policy, engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    engine.crash(&id, 3);
    let first = whole_status(&mut worker).await;
    assert_eq!((first.running, first.exit_code, first.stopped), (false, Some(3), false));
    let then = loop {
        let then = whole_status(&mut worker).await;
        assert_eq!((then.running, then.exit_code), (false, Some(3)));
        if then.stopped {
            break then;
        }
    };
    assert!(then.observed_at_ms >= first.observed_at_ms + 300, "after a while");
}

#[tokio::test]
async fn an_instance_that_writes_more_than_its_limit_is_stopped_and_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let limit = [("wisehosting.disk-bytes-max".to_owned(), "1000".to_owned())];
    let id = with_labels(&engine, dir.path(), "serve", limit.into()).await;
    engine.write(&id, 1_000);
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    becomes(&mut worker, (true, None)).await;
    drop(worker);
    engine.write(&id, 1);
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    let (instance, kind, message) = worker.violation().await;
    assert_eq!((instance, kind), (INSTANCE, ViolationKind::DiskQuota));
    assert!(message.starts_with("It wrote more to its disk than its limit and was stopped."), "{message}");
    stopped(&mut worker).await;
    assert_ne!(engine.container(&id).await.expect("the container").state, ContainerState::Running);
    drop(worker);
    engine.start(&id).await.expect("started by somebody");
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    stopped(&mut worker).await;
    assert_ne!(engine.container(&id).await.expect("the container").state, ContainerState::Running);
}

#[tokio::test(start_paused = true)]
async fn starts_that_hang_keep_no_instance_from_being_stopped() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    for number in 100..110 {
        let labels = [("wisehosting.instance".to_owned(), InstanceId(Uuid::from_u128(number)).to_string())];
        let id = with_labels(&engine, dir.path(), "serve", labels.into()).await;
        engine.crash(&id, 3);
        engine.hold_starts_of(&id);
    }
    let limit = [("wisehosting.disk-bytes-max".to_owned(), "1000".to_owned())];
    let id = with_labels(&engine, dir.path(), "serve", limit.into()).await;
    engine.write(&id, 1_001);
    let began = Instant::now();
    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    worker
        .wait("stop", |message| match message {
            AgentMessage::AppStatus(status) => {
                (status.instance_id == INSTANCE && !status.running).then_some(())
            }
            _ => None,
        })
        .await;
    // By the clock of the test: the engine is given up on after a minute.
    assert!(began.elapsed() < Duration::from_secs(60), "it waited for a start");
}

#[tokio::test]
async fn a_heartbeat_counts_what_runs_once_all_is_named_on_its_connection() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    container(&engine, dir.path()).await;
    let other = [("wisehosting.instance".to_owned(), InstanceId(Uuid::from_u128(8)).to_string())];
    with_labels(&engine, dir.path(), "serve", other.into()).await;
    let (say, mut said) = mpsc::unbounded_channel();
    let outbox = Outbox::new(move |message| say.send(message).is_ok());
    let host = Host::new(engine.clone(), outbox, Arc::new(SystemClock), settings_in_memory(dir.path()));
    let worker = wisehosting_worker::Worker::recover(Arc::new(host), dir.path()).await.expect("a worker");
    let (events, received) = mpsc::channel(16);
    tokio::spawn(worker.serve(received, watch::Sender::default().subscribe()));
    let connected =
        || Event::Connected(Registered { version: "test".to_owned(), heartbeat_interval_ms: 100 });

    events.send(connected()).await.expect("it listens");
    // A state may be told twice: at its moment, and to a connection that began then.
    let mut named = HashSet::new();
    let counted = |said: AgentMessage, named: &mut HashSet<InstanceId>| match said {
        AgentMessage::AppStatus(status) => {
            named.insert(status.instance_id);
            None
        }
        AgentMessage::Heartbeat(heartbeat) => heartbeat.instances.map(|count| (count, named.len())),
        _ => None,
    };
    let deadline = Instant::now() + PATIENCE;
    let mut next = async || timeout_at(deadline, said.recv()).await.expect("in time").expect("it speaks");
    let first = loop {
        if let Some(first) = counted(next().await, &mut named) {
            break first;
        }
    };
    assert_eq!(first, (2, 2), "both were named before they were counted");

    engine.set_away(true);
    for event in [Event::Disconnected, connected()] {
        events.send(event).await.expect("it listens");
    }
    let is_beat = |message: &AgentMessage| matches!(message, AgentMessage::Heartbeat(_));
    // What was said on the connection before may still stand in front.
    let mut without = 0;
    while without < 5 {
        let message = next().await;
        without = match counted(message.clone(), &mut named) {
            Some(_) => 0,
            None => without + u32::from(is_beat(&message)),
        };
    }
    engine.set_away(false);
    named.clear();
    let again = loop {
        if let Some(again) = counted(next().await, &mut named) {
            break again;
        }
    };
    assert_eq!(again, (2, 2), "both were named again");
}
