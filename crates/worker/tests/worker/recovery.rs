//! What a worker makes of its last run, on the engine in memory.

use crate::{
    jobs::{bench, checking},
    support::{PATIENCE, image_in_memory, settings_in_memory, start_in_memory},
};
use std::{collections::BTreeMap, path::Path, sync::Arc};
use tokio::time::timeout;
use wisehosting_containers::{Engine, ImageId, fake::FakeEngine};
use wisehosting_node::{clock::SystemClock, random};
use wisehosting_protocol::payload::Outcome;
use wisehosting_worker::{Worker, host::Host, outbox::Outbox};

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
