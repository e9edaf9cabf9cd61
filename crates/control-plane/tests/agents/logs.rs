//! What instances write, from their workers to who reads it.

use sqlx::PgPool;
use wisehosting_domain::id::InstanceId;
use wisehosting_node::{channel::Role, random};
use wisehosting_protocol::{
    message::HubMessage,
    payload::{LogLine, RuntimeLog, RuntimeLogAck, Stream},
};
use wisehosting_store::{
    MIGRATOR, apps, pool,
    runtime_log::{self, Line, Tail},
};

use crate::{
    agent::{Agent, deployed},
    platform::{Platform, USER, label},
};

impl Platform {
    /// All lines of an app that are stored.
    pub(crate) async fn log(&self, app: &str) -> Vec<Line> {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        let app = apps::get(&mut connection, USER, &label(app)).await.unwrap();
        let all = Tail { since: None, lines_max: 1_000, bytes_max: 1_000_000 };
        runtime_log::tail(&mut connection, USER, &[app.id], all).await.unwrap()
    }

    pub(crate) async fn log_texts(&self, app: &str) -> Vec<String> {
        self.log(app).await.into_iter().map(|line| line.text).collect()
    }
}

impl Agent {
    /// Sends lines from one place of a log to another, and returns what the hub says of it.
    async fn log(
        &mut self,
        instance_id: InstanceId,
        after: Option<&str>,
        cursor: Option<&str>,
        texts: &[&str],
    ) -> Option<String> {
        let at = "2026-01-02T03:04:05.123456789Z".to_owned();
        let line = |text: &&str| LogLine { at: at.clone(), stream: Stream::Stderr, text: (*text).to_owned() };
        let lines = texts.iter().map(line).collect();
        let (after, cursor) = (after.map(str::to_owned), cursor.map(str::to_owned));
        self.send(RuntimeLog { instance_id, after, cursor, lines }).await;
        match self.next().await {
            HubMessage::RuntimeLogAck(RuntimeLogAck { instance_id: id, cursor }) if id == instance_id => {
                cursor
            }
            message => panic!("no answer but {message:?}"),
        }
    }
}

async fn instance(platform: &Platform, worker: &mut Agent, app: &str) -> InstanceId {
    platform.create_app(app).await;
    platform.deploy(app).await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    job.instance_id
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn lines_are_stored_once_and_only_where_they_follow_on(pool: PgPool) {
    let platform = Platform::start(pool.clone()).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let id = instance(&platform, &mut worker, "hello").await;
    assert_eq!(worker.log(id, None, None, &[]).await, None, "nothing is stored");
    assert_eq!(worker.log(id, None, Some("a"), &["one", "nul \0 \u{fffd}"]).await.as_deref(), Some("a"));
    assert_eq!(worker.log(id, None, Some("a"), &["one", "nul"]).await.as_deref(), Some("a"), "sent again");
    assert_eq!(worker.log(id, Some("x"), Some("y"), &["elsewhere"]).await.as_deref(), Some("a"));
    let lines = platform.log("hello").await;
    assert_eq!(lines[0].at.unix_timestamp_nanos() % 1_000_000_000, 123_456_789);
    assert_eq!((lines[0].instance_id, lines[0].stream), (id, runtime_log::Stream::Stderr));
    platform.stop().await;

    // The next control plane goes on where this one was.
    let platform = Platform::start(pool).await;
    let mut worker = Agent::connect(&platform, Role::Worker, "worker-1", &[]).await;
    assert_eq!(worker.log(id, None, None, &[]).await.as_deref(), Some("a"));
    assert_eq!(worker.log(id, Some("a"), Some("b"), &["two"]).await.as_deref(), Some("b"));
    assert_eq!(platform.log_texts("hello").await, ["one", "nul \0 \u{fffd}", "two"]);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_worker_speaks_for_its_own_instances_only(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let id = instance(&platform, &mut worker, "hello").await;
    let mut other = Agent::worker(&platform, "worker-2").await;
    // It is told that all is well, so that it goes on with other logs.
    assert_eq!(other.log(id, None, Some("z"), &["forged"]).await.as_deref(), Some("z"));
    let nobody = InstanceId(random::uuid());
    assert_eq!(other.log(nobody, None, Some("z"), &["of nobody"]).await.as_deref(), Some("z"));
    assert_eq!(worker.log(id, None, None, &[]).await, None);
    assert!(platform.log("hello").await.is_empty());
    platform.stop().await;
}
