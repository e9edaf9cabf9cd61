//! What a worker makes of its last run, on the engine in memory.

use crate::{
    instances::with_labels,
    jobs::{bench, checking},
    support::{PATIENCE, deploy_job, image_in_memory, settings_in_memory, start_in_memory},
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use wisehosting_containers::{Engine, ImageId, fake::FakeEngine};
use wisehosting_node::{clock::SystemClock, random};
use wisehosting_protocol::{message::AgentMessage, payload::Outcome};
use wisehosting_worker::{Worker, host::Host, journal::Journal, outbox::Outbox};

/// Images of one app, the oldest first.
async fn images(engine: &FakeEngine, dir: &Path, count: u64) -> Vec<ImageId> {
    let app = random::uuid();
    let mut images = Vec::new();
    for built_at_ms in 0..count {
        let origin = format!("{app} {} {built_at_ms}", random::uuid());
        let labels = BTreeMap::from([("wisehosting.origin".to_owned(), origin)]);
        images.push(image_in_memory(engine, dir, "serve", labels).await);
    }
    images
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_removed_keeps_no_worker_from_starting() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let images = images(&engine, dir.path(), 4).await;
    engine.refuse_removal_of(&images[1]);
    let settings = settings_in_memory(dir.path());
    let kept = settings.images_kept;
    let host = Host::new(engine.clone(), Outbox::new(|_| true), Arc::new(SystemClock), settings);
    let state_dir = dir.path().join("state");
    let recovered = timeout(PATIENCE, Worker::recover(Arc::new(host), &state_dir)).await;
    recovered.expect("it starts").expect("its folders are usable");
    assert_eq!(engine.image_count(), kept + 1, "the other that is not needed is gone");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_is_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    engine.set_away(true);
    let settings = settings_in_memory(dir.path());
    let host = Host::new(engine.clone(), Outbox::new(|_| true), Arc::new(SystemClock), settings);
    let state_dir = dir.path().join("state");
    let mut recovering = Box::pin(Worker::recover(Arc::new(host), &state_dir));
    timeout(PATIENCE, &mut recovering).await.err().expect("others can do its jobs meanwhile");
    engine.set_away(false);
    timeout(PATIENCE, recovering).await.expect("it starts").expect("its folders are usable");
}

#[tokio::test]
async fn what_is_left_of_a_deploy_because_it_cannot_be_removed_is_no_reason_not_to_end_it() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = bench.deploy(1, 60_000);
    worker.tell(job.clone()).await;
    checking(&mut worker, &job).await;
    let image = bench.engine.images("wisehosting.origin").await.expect("a list").remove(0).id;
    bench.engine.refuse_removal_of(&image);
    let copy = bench.taken(&job);
    let mut next = start_in_memory(bench.engine.clone(), copy.path()).await;
    let outcome = next.result(&job).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert!(bench.engine.containers("wisehosting.instance").await.expect("a list").known().is_empty());
    assert_eq!(bench.engine.image_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_the_engine_hangs_on_holds_up_nothing_but_its_own_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = FakeEngine::default();
    let job = deploy_job(1, Path::new("/nowhere"));
    let label = |instance: String| BTreeMap::from([("wisehosting.instance".to_owned(), instance)]);
    let stuck = with_labels(&engine, dir.path(), "serve", label(job.instance_id.to_string())).await;
    let crashed = with_labels(&engine, dir.path(), "serve", label(random::uuid().to_string())).await;
    engine.crash(&crashed, 3);
    engine.hide(&stuck);
    let journal = Journal::open(&dir.path().join("state")).expect("a journal");
    journal.take(&job).expect("taken by a worker that was killed then");

    let mut worker = start_in_memory(engine.clone(), dir.path()).await;
    let (mut failed, mut restarted) = (false, false);
    while !(failed && restarted) {
        let (ended, runs) = worker
            .wait("result or state", |message| match message {
                AgentMessage::JobResult(result) => Some((result.job_id == job.job_id, false)),
                AgentMessage::AppStatus(status) => Some((false, status.running)),
                _ => None,
            })
            .await;
        failed |= ended;
        restarted |= runs;
    }
    engine.container(&stuck).await.expect("it is still there");
    engine.hide_none();
    let gone = async {
        while engine.container(&stuck).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it is removed once the engine is done with it");
}
