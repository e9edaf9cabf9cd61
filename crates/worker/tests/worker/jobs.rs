//! Order, repetition and loss of jobs, on the engine in memory.

use crate::support::{
    Worker, delete_job, deploy_job, repository, settings, settings_in_memory, start_in_memory, start_outside,
    start_with, stop_job,
};
use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use wisehosting_containers::{
    Engine, ImageId,
    fake::{Building, FakeEngine},
};
use wisehosting_domain::{
    id::JobId,
    login::Login,
    source::{Commit, Source},
    state::DeploymentState,
};
use wisehosting_node::random;
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage, JobCancel, ResultAck},
    payload::{Job, JobRef, Outcome},
};
use wisehosting_worker::{
    git::{Fetch, GitError},
    health::{Probe, Unhealthy},
    host::HostSettings,
    outside::{Machine, Outside, Waiting},
    workspace::Workspace,
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Bench {
    pub(crate) engine: FakeEngine,
    pub(crate) dir: TempDir,
    /// Its program runs and never answers: the engine in memory has no network.
    repository: PathBuf,
}

pub(crate) fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a folder");
    let content = dir.path().join("content");
    fs::create_dir(&content).expect("a folder");
    fs::write(content.join("Dockerfile"), "FROM scratch\nCMD [\"serve\"]\n").expect("written");
    let repository = repository(&content);
    Bench { engine: FakeEngine::default(), dir, repository }
}

impl Bench {
    pub(crate) async fn start(&self) -> Worker {
        start_in_memory(self.engine.clone(), self.dir.path()).await
    }

    pub(crate) fn deploy(&self, app: u128, health_timeout_ms: u64) -> Job {
        let mut job = deploy_job(app, &self.repository);
        settings(&mut job).health_timeout_ms = health_timeout_ms;
        job
    }

    /// A worker's folders in which this job was taken. Its runtime, and with it all of its tasks, would end with the process;
    /// here its folders are given to another.
    pub(crate) fn taken(&self, job: &Job) -> TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(copy.path().join("state/taken")).expect("a folder");
        let entry = format!("state/taken/{}.json", job.job_id);
        fs::copy(self.dir.path().join(&entry), copy.path().join(&entry)).expect("copied");
        copy
    }

    async fn assert_nothing_left(&self) {
        assert!(self.engine.containers("wisehosting.instance").await.expect("a list").known().is_empty());
        assert_eq!(self.engine.image_count(), 0);
        assert_empty(&self.dir.path().join("work"));
        assert_empty(&self.dir.path().join("state/taken"));
    }
}

fn assert_empty(dir: &Path) {
    // A worker that has never made the folder has left nothing in it.
    let entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().collect();
    assert!(entries.is_empty(), "{entries:?}");
}

pub(crate) async fn checking(worker: &mut Worker, job: &Job) {
    let job_id = job.job_id;
    worker
        .wait("status", |message| match message {
            AgentMessage::JobStatus(status) if status.job_id == job_id => {
                (status.state == DeploymentState::Checking).then_some(())
            }
            _ => None,
        })
        .await;
}

fn acknowledgements(worker: &Worker) -> usize {
    worker.heard.iter().filter(|message| matches!(message, AgentMessage::JobAck(_))).count()
}

pub(crate) fn instance() -> wisehosting_domain::id::InstanceId {
    wisehosting_domain::id::InstanceId(random::uuid())
}

#[tokio::test]
async fn a_log_is_sent_again_in_front_of_its_result_until_that_is_stored() {
    let bench = bench();
    let mut worker = bench.start().await;
    let (first, second) = (bench.deploy(1, 1), bench.deploy(2, 1));
    let outcome = worker.run(&first).await;
    let log = worker.build_log();
    assert!(log.len() > 3, "{log:?}");

    worker.heard.clear();
    worker.disconnect().await;
    worker.connect().await;
    assert_eq!(worker.result(&first).await, outcome);
    assert_eq!(worker.build_log(), log);
    drop(worker);
    let mut worker = bench.start().await;
    assert_eq!(worker.result(&first).await, outcome);
    assert_eq!(worker.build_log(), log, "also by the next process");

    worker.tell(HubMessage::ResultAck(ResultAck(JobRef { job_id: first.job_id }))).await;
    worker.heard.clear();
    worker.disconnect().await;
    worker.connect().await;
    worker.run(&second).await;
    assert_eq!(worker.build_log().len(), log.len(), "only that of the second job");
    assert!(!bench.dir.path().join(format!("state/logs/{}.json", first.job_id)).exists());
}

#[tokio::test]
async fn a_failure_of_a_long_step_has_its_cause() {
    let bench = bench();
    let content = bench.dir.path().join("long");
    fs::create_dir(&content).expect("a folder");
    let step = format!("RUN exit {}4", " ".repeat(3 << 20));
    fs::write(content.join("Dockerfile"), format!("FROM scratch\n{step}\n")).expect("written");
    let mut worker = bench.start().await;
    let message = worker.failure(&deploy_job(1, &repository(&content))).await;
    assert!(
        message.contains("build failed at RUN exit") && message.contains("…: exit status 4"),
        "{message}"
    );
}

#[tokio::test]
async fn a_deploy_that_cannot_be_written_down_fails_at_once() {
    let bench = bench();
    let mut worker = bench.start().await;
    fs::remove_dir(bench.dir.path().join("state/taken")).expect("nothing can be written there");
    let message = worker.failure(&bench.deploy(1, 1)).await;
    assert!(message.starts_with("The worker cannot write to its own disk."), "{message}");
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn the_step_of_a_deploy_is_told_again_to_a_new_connection() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = bench.deploy(1, 60_000);
    worker.tell(job.clone()).await;
    checking(&mut worker, &job).await;
    worker.disconnect().await;
    worker.connect().await;
    checking(&mut worker, &job).await;
    worker.tell(JobCancel(JobRef { job_id: job.job_id })).await;
    assert_eq!(worker.result(&job).await, Outcome::Cancelled);
}

#[tokio::test]
async fn jobs_of_one_app_wait_for_each_other_and_those_of_another_do_not() {
    let bench = bench();
    let mut worker = bench.start().await;
    let slow = bench.deploy(1, 3_000);
    worker.tell(slow.clone()).await;
    checking(&mut worker, &slow).await;
    let (behind, beside) = (bench.deploy(1, 100), bench.deploy(2, 100));
    worker.tell(behind.clone()).await;
    worker.tell(beside.clone()).await;
    // Neither does the end of another instance wait, nor does anything wait for it.
    let (end, own_end) = (stop_job(1, instance()), stop_job(1, slow.instance_id));
    worker.tell(own_end.clone()).await;
    assert_eq!(worker.run(&end).await, Outcome::Stopped);

    let mut ended = Vec::new();
    for _ in 0..4 {
        let next = worker.wait("result", |message| match message {
            AgentMessage::JobResult(result) => Some(result.job_id),
            _ => None,
        });
        ended.push(next.await);
    }
    assert_eq!(ended, [beside.job_id, slow.job_id, behind.job_id, own_end.job_id]);
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn a_job_that_comes_twice_is_done_once() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = bench.deploy(1, 500);
    worker.tell(job.clone()).await;
    worker.tell(job.clone()).await;
    worker.result(&job).await;
    assert_eq!(acknowledgements(&worker), 2);
    let begun = |message: &&AgentMessage| matches!(message, AgentMessage::JobStatus(status) if status.state == DeploymentState::Cloning);
    assert_eq!(worker.heard.iter().filter(begun).count(), 1);
    // Once it has ended, its result is the answer.
    worker.tell(job.clone()).await;
    worker.result(&job).await;
}

#[tokio::test]
async fn a_result_is_offered_until_it_is_stored() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = stop_job(1, instance());
    assert_eq!(worker.run(&job).await, Outcome::Stopped);
    worker.connect().await;
    assert_eq!(worker.result(&job).await, Outcome::Stopped);
    drop(worker);

    let mut worker = bench.start().await;
    assert_eq!(worker.result(&job).await, Outcome::Stopped, "also by the next process");
    worker.tell(HubMessage::ResultAck(ResultAck(JobRef { job_id: job.job_id }))).await;
    // What was offered before that comes before the result of a later job.
    worker.run(&stop_job(1, instance())).await;
    worker.heard.clear();
    worker.connect().await;
    worker.run(&stop_job(1, instance())).await;
    let again = |message: &AgentMessage| matches!(message, AgentMessage::JobResult(result) if result.job_id == job.job_id);
    assert!(!worker.heard.iter().any(again), "a result that is stored is not sent again");
    assert!(!bench.dir.path().join(format!("state/results/{}.json", job.job_id)).exists());
}

/// The jobs that the next connection's first heartbeat lists.
async fn listed(worker: &mut Worker) -> Vec<JobId> {
    worker.disconnect().await;
    worker.connect().await;
    let listed = |message: &AgentMessage| match message {
        AgentMessage::Heartbeat(heartbeat) => Some(heartbeat.running_jobs.clone()),
        _ => None,
    };
    worker.wait("heartbeat", listed).await
}

#[tokio::test]
async fn a_job_is_listed_until_its_result_is_stored() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = stop_job(1, instance());
    assert_eq!(worker.run(&job).await, Outcome::Stopped);
    assert_eq!(listed(&mut worker).await, [job.job_id], "its lease must not end before the result arrives");
    assert_eq!(worker.result(&job).await, Outcome::Stopped);
    worker.tell(HubMessage::JobCancel(JobCancel(JobRef { job_id: job.job_id }))).await;
    assert_eq!(listed(&mut worker).await, [job.job_id]);
    assert_eq!(worker.result(&job).await, Outcome::Stopped, "it is too late to call it off");
    worker.tell(HubMessage::ResultAck(ResultAck(JobRef { job_id: job.job_id }))).await;
    assert_eq!(listed(&mut worker).await, []);
}

#[tokio::test]
async fn a_job_that_is_called_off_ends_and_leaves_nothing() {
    let bench = bench();
    let mut worker = bench.start().await;
    let (running, waiting) = (bench.deploy(1, 60_000), bench.deploy(1, 60_000));
    worker.tell(running.clone()).await;
    worker.tell(waiting.clone()).await;
    checking(&mut worker, &running).await;
    for job in [&waiting, &running] {
        worker.tell(HubMessage::JobCancel(JobCancel(JobRef { job_id: job.job_id }))).await;
    }
    assert_eq!(worker.result(&running).await, Outcome::Cancelled);
    assert_eq!(worker.result(&waiting).await, Outcome::Cancelled);
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn a_deploy_that_a_crash_cut_off_has_failed_and_is_undone() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = bench.deploy(1, 60_000);
    worker.tell(job.clone()).await;
    checking(&mut worker, &job).await;
    let copy = bench.taken(&job);
    let mut next = start_in_memory(bench.engine.clone(), copy.path()).await;
    match next.result(&job).await {
        Outcome::Failed { message } => assert!(message.contains("restarted during the deploy"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(bench.engine.containers("wisehosting.instance").await.expect("a list").known().is_empty());
    assert_eq!(bench.engine.image_count(), 0);
}

#[tokio::test]
async fn an_engine_that_is_away_fails_the_job_with_what_to_do() {
    let bench = bench();
    let mut worker = bench.start().await;
    bench.engine.set_away(true);
    let message = worker.failure(&bench.deploy(1, 1_000)).await;
    assert!(message.ends_with("start it with systemctl start podman.socket"), "{message}");
    assert!(worker.build_log().iter().any(|line| line.contains("does not answer")), "the log says so too");
    bench.engine.set_away(false);
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn what_the_engine_does_not_tell_of_is_not_taken_for_stopped_or_deleted() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = bench.deploy(1, 60_000);
    worker.tell(job.clone()).await;
    checking(&mut worker, &job).await;
    // Nobody is at work on it any more, as after a deploy that went well.
    let copy = tempfile::tempdir().expect("a folder");
    let mut next = start_in_memory(bench.engine.clone(), copy.path()).await;
    let instances = async || bench.engine.containers("wisehosting.instance").await.expect("a list").known();
    let id = instances().await.remove(0).id;
    bench.engine.hide(&id);
    for job in [stop_job(1, job.instance_id), delete_job(1, job.instance_id)] {
        let message = next.failure(&job).await;
        assert!(message.starts_with("Podman is at work on another container"), "{message}");
    }
    bench.engine.hide_none();
    assert_eq!(instances().await.len(), 1);
    assert_eq!(next.run(&stop_job(1, job.instance_id)).await, Outcome::Stopped);
    assert!(instances().await.is_empty());
}

#[tokio::test]
async fn so_many_builds_run_at_a_time_and_the_others_wait() {
    let bench = bench();
    let mut building = bench.engine.hold_builds();
    let mut worker = bench.start().await;
    let jobs = [1, 2, 3, 4].map(|app| bench.deploy(app, 1));
    for job in &jobs {
        worker.tell(job.clone()).await;
    }
    let both = building.wait_for(|building| building.now >= 2);
    timeout(PATIENCE, both).await.expect("side by side").expect("the engine is there");
    // Who says so has found no place: from then on only an end makes one.
    let waits = |line: &String| line.starts_with("Waiting for other builds");
    while worker.build_log().iter().filter(|line| waits(line)).count() < 2 {
        worker
            .wait("word of a wait", |message| matches!(message, AgentMessage::BuildLog(_)).then_some(()))
            .await;
    }
    for _ in &jobs {
        bench.engine.release_build();
    }
    let mut ended = HashSet::new();
    while ended.len() < jobs.len() {
        let result = |message: &AgentMessage| match message {
            AgentMessage::JobResult(result) => Some(result.job_id),
            _ => None,
        };
        ended.insert(worker.wait("result", result).await);
    }
    assert_eq!(*building.borrow(), Building { now: 0, most: 2 });
    bench.assert_nothing_left().await;
}

/// Programs of which it is never said whether they answer, until that is called for; nothing is sent out of the machine.
#[derive(Clone)]
struct HeldProofs {
    held: Arc<Semaphore>,
    proving: watch::Sender<usize>,
}

impl Outside for HeldProofs {
    fn fetch<'a>(
        &'a self,
        fetch: Fetch,
        source: &'a Source,
        login: Option<&'a Login>,
        dir: &'a Path,
    ) -> Waiting<'a, Result<Commit, GitError>> {
        Machine.fetch(fetch, source, login, dir)
    }

    fn probe<'a>(&'a self, _: &'a Probe, _: Duration) -> Waiting<'a, Result<(), Unhealthy>> {
        Box::pin(async {
            self.proving.send_modify(|proving| *proving += 1);
            self.held.acquire().await.expect("never closed").forget();
            Ok(())
        })
    }

    fn remove(&self, workspace: Workspace) -> Waiting<'_, ()> {
        Machine.remove(workspace)
    }

    fn sync(&self, _: PathBuf) -> Waiting<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn write(&self, work: Box<dyn FnOnce() + Send>) -> Waiting<'_, ()> {
        Machine.write(work)
    }
}

#[tokio::test]
async fn so_many_apps_start_at_a_time_and_the_others_wait() {
    let bench = bench();
    let (held, proving) = (Arc::new(Semaphore::new(0)), watch::Sender::new(0));
    let outside = HeldProofs { held: held.clone(), proving: proving.clone() };
    let limited = HostSettings { starts: 2, ..settings_in_memory(bench.dir.path()) };
    let mut worker = start_outside(outside, limited, bench.engine.clone(), bench.dir.path()).await;
    // The first is built; the others repeat it, so nothing else bounds them.
    let first = bench.deploy(1, 1);
    held.add_permits(1);
    let Outcome::Deployed { commit, image_id, .. } = worker.run(&first).await else {
        panic!("{:?}", worker.build_log());
    };
    proving.send_replace(0);
    let jobs = [2, 3, 4, 5, 6].map(|app| {
        let mut job = bench.deploy(app, 1);
        let deploy = settings(&mut job);
        (deploy.image_id, deploy.source.commit) = (Some(image_id.clone()), Some(commit.clone()));
        // The wait does not count.
        deploy.deadline_ms = 60_000;
        job
    });
    for job in &jobs {
        worker.tell(job.clone()).await;
    }
    let mut now = proving.subscribe();
    timeout(PATIENCE, now.wait_for(|proving| *proving >= 2)).await.expect("side by side").expect("alive");
    // Who says so has found no place: from then on only an end makes one.
    let waits = |line: &String| line.starts_with("Waiting for other apps");
    while worker.build_log().iter().filter(|line| waits(line)).count() < 3 {
        worker
            .wait("word of a wait", |message| matches!(message, AgentMessage::BuildLog(_)).then_some(()))
            .await;
    }
    let reached = |worker: &Worker, state| {
        let is = |message: &&AgentMessage| matches!(message, AgentMessage::JobStatus(status) if status.state == state && status.job_id != first.job_id);
        worker.heard.iter().filter(is).count()
    };
    assert_eq!((*proving.borrow(), reached(&worker, DeploymentState::Starting)), (2, 2));
    assert_eq!(bench.engine.containers("wisehosting.instance").await.expect("a list").known().len(), 3);
    for done in 1..=jobs.len() {
        held.add_permits(1);
        let deployed = |message: &AgentMessage| match message {
            AgentMessage::JobResult(result) => Some(matches!(result.outcome, Outcome::Deployed { .. })),
            _ => None,
        };
        assert!(worker.wait("result", deployed).await);
        assert!(*proving.borrow() <= done + 2, "one place is free for each that has ended");
    }
    assert_eq!(*proving.borrow(), jobs.len());
}

#[tokio::test]
async fn a_deploy_that_is_proven_is_told_before_images_are_removed() {
    let bench = bench();
    let held = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let outside = HeldProofs { held, proving: watch::Sender::new(0) };
    let settings = HostSettings { images_kept: 1, ..settings_in_memory(bench.dir.path()) };
    let mut worker = start_outside(outside, settings, bench.engine.clone(), bench.dir.path()).await;
    let first = bench.deploy(1, 1);
    let Outcome::Deployed { image_id, .. } = worker.run(&first).await else {
        panic!("{:?}", worker.build_log());
    };
    assert_eq!(worker.run(&stop_job(1, first.instance_id)).await, Outcome::Stopped);
    bench.engine.hold_removals(true);
    let second = bench.deploy(1, 1);
    let outcome = timeout(PATIENCE, worker.run(&second)).await.expect("nothing is waited for");
    assert!(matches!(outcome, Outcome::Deployed { .. }), "{outcome:?}");
    bench.engine.hold_removals(false);
    // The next job of the app comes after that.
    worker.run(&bench.deploy(1, 1)).await;
    assert_eq!(bench.engine.image(&ImageId::new(image_id)).await.expect("it answers"), None);
}

#[tokio::test]
async fn a_deploy_ends_although_the_engine_hangs_when_it_is_to_remove_what_it_made() {
    let bench = bench();
    let mut worker = bench.start().await;
    let job = bench.deploy(1, 600_000);
    worker.tell(job.clone()).await;
    checking(&mut worker, &job).await;
    bench.engine.hold_removals(true);
    worker.tell(JobCancel(JobRef { job_id: job.job_id })).await;
    tokio::time::pause();
    assert_eq!(worker.result(&job).await, Outcome::Cancelled);
    assert_eq!(bench.engine.image_count(), 1);
    bench.engine.hold_removals(false);
    let gone = async {
        while bench.engine.image_count() > 0 {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it is removed once the engine does so");
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn the_log_of_a_deploy_has_what_its_program_wrote_before_it_failed() {
    let bench = bench();
    let mut worker = bench.start().await;
    for (app, length, kept) in [(1, 10, 1..=200), (2, 990, 137..=200)] {
        let line = |number: u32| format!("line {number} {}", "x".repeat(length));
        let words: Vec<String> = (1..=200).map(|number| format!("echo {}", line(number))).collect();
        let content = bench.dir.path().join(format!("crasher-{app}"));
        fs::create_dir(&content).expect("a folder");
        let dockerfile = format!("FROM scratch\nCMD [\"{}; exit 3\"]\n", words.join("; "));
        fs::write(content.join("Dockerfile"), dockerfile).expect("written");
        worker.heard.clear();
        let message = worker.failure(&deploy_job(app, &repository(&content))).await;
        assert!(message.contains("exit status 3"), "{message}");
        assert!(message.contains(&line(196)[..8]) && !message.contains(&line(195)[..8]), "{message}");
        let log = worker.build_log();
        let said: Vec<&String> = log.iter().filter(|text| text.starts_with("line ")).collect();
        let expected: Vec<String> = kept.map(line).collect();
        assert!(said.iter().copied().eq(&expected), "{said:#?}");
        let told = log.iter().position(|text| text.starts_with("What the program wrote")).expect("told");
        assert_eq!(log[told].contains("the last of it"), app == 2, "{}", log[told]);
        assert_eq!(log[told + 1], expected[0]);
    }
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn a_wait_for_other_builds_does_not_count() {
    let bench = bench();
    let mut worker =
        start_with(bench.engine.clone(), bench.dir.path(), |settings| settings.builds.bounds.at_a_time = 0)
            .await;
    let mut job = bench.deploy(1, 60_000);
    settings(&mut job).deadline_ms = 1;
    worker.tell(job.clone()).await;
    worker
        .wait("wait", |message| match message {
            AgentMessage::BuildLog(log) => {
                log.lines.iter().any(|line| line.text.contains("Waiting")).then_some(())
            }
            _ => None,
        })
        .await;
    worker.tell(JobCancel(JobRef { job_id: job.job_id })).await;
    assert_eq!(worker.result(&job).await, Outcome::Cancelled);
    bench.assert_nothing_left().await;
}

#[tokio::test]
async fn a_deploy_has_a_deadline() {
    let bench = bench();
    let mut worker = bench.start().await;
    let mut job = bench.deploy(1, 60_000);
    settings(&mut job).deadline_ms = 1_000;
    let message = worker.failure(&job).await;
    assert_eq!(message, "The deploy took longer than 1 s and was stopped.");
    bench.assert_nothing_left().await;
}
