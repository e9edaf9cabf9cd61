//! What instances write, from their workers to who reads it.

use std::sync::Arc;

use sqlx::PgPool;
use wisehosting_control_plane::state::AppState;
use wisehosting_domain::id::InstanceId;
use wisehosting_node::{channel::Role, clock::Clock as _, random};
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
        // Later than what was stored before the test began.
        let at = "2126-01-02T03:04:05.123456789Z".to_owned();
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

impl Platform {
    /// Has Postgres refuse to store lines, by a passing error at this moment: `BEFORE INSERT`, or at the commit.
    pub(crate) async fn refuse_lines(&self, at_commit: bool) {
        let trigger = if at_commit {
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON runtime_log_chunks
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        } else {
            "CREATE TRIGGER refuse BEFORE INSERT ON runtime_log_chunks EXECUTE FUNCTION refuse()"
        };
        for statement in [
            "CREATE SEQUENCE refused",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('refused'); RAISE EXCEPTION USING ERRCODE = '40P01'; END $$",
            trigger,
        ] {
            sqlx::query(statement).execute(&self.state.pool).await.unwrap();
        }
    }

    /// Waits until it has refused lines, and ends that.
    pub(crate) async fn accept_lines(&self) {
        self.eventually(async || {
            let refused =
                sqlx::query_scalar("SELECT is_called FROM refused").fetch_one(&self.state.pool).await;
            if refused.unwrap() { Ok(()) } else { Err("nothing is refused yet".to_owned()) }
        })
        .await;
        sqlx::query("DROP TRIGGER refuse ON runtime_log_chunks").execute(&self.state.pool).await.unwrap();
    }

    /// The newest lines of an app that are in memory; none if they may not be all.
    async fn newest_in_memory(&self, app: &str, lines: usize) -> Option<Vec<String>> {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        let app = apps::get(&mut connection, USER, &label(app)).await.unwrap();
        let lines = self.state.logs.tail(&[app.id], None, lines, self.clock.now())?;
        Some(lines.into_iter().map(|line| line.text).collect())
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

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_commit_that_nobody_heard_of_is_not_left_out(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let id = instance(&platform, &mut worker, "hello").await;
    worker.log(id, None, Some("a"), &["one"]).await;
    assert_eq!(platform.newest_in_memory("hello", 1).await, Some(vec!["one".to_owned()]));
    // What follows on it came, was stored, and the answer was lost.
    let app_id = platform.log("hello").await[0].app_id;
    let mut transaction = pool::begin(&platform.state.pool).await.unwrap();
    let (at, stream) = (platform.clock.now(), runtime_log::Stream::Stdout);
    let line = runtime_log::NewLine { at, stream, text: "two".to_owned() };
    runtime_log::append(&mut transaction, app_id, id, vec![line], at).await.unwrap();
    runtime_log::move_cursor(&mut transaction, id, "b").await.unwrap();
    pool::commit(transaction).await.unwrap();
    assert_eq!(worker.log(id, Some("a"), Some("b"), &["two"]).await.as_deref(), Some("b"));
    assert_eq!(platform.newest_in_memory("hello", 1).await, None, "Postgres has another one");
    worker.log(id, Some("b"), Some("c"), &["three"]).await;
    assert_eq!(platform.newest_in_memory("hello", 1).await, Some(vec!["three".to_owned()]));
    assert_eq!(platform.newest_in_memory("hello", 2).await, None, "but not what came before");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn what_postgres_has_lost_is_not_shown(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let id = instance(&platform, &mut worker, "hello").await;
    worker.log(id, None, Some("a"), &["one"]).await;
    worker.log(id, Some("a"), Some("b"), &["lost"]).await;
    // As after a crash, since it does not wait for its disk.
    for statement in [
        "DELETE FROM runtime_log_chunks WHERE id = (SELECT max(id) FROM runtime_log_chunks)",
        "UPDATE runtime_log_cursors SET cursor = 'a'",
    ] {
        sqlx::query(statement).execute(&platform.state.pool).await.unwrap();
    }
    assert_eq!(worker.log(id, Some("b"), Some("c"), &["two"]).await.as_deref(), Some("a"));
    assert_eq!(platform.newest_in_memory("hello", 1).await, None);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_commit_that_fails_is_repeated_and_until_then_the_database_is_asked(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let id = instance(&platform, &mut worker, "hello").await;
    worker.log(id, None, Some("a"), &["one"]).await;
    platform.refuse_lines(true).await;
    let lines = vec![LogLine {
        at: "2026-01-02T03:04:05Z".to_owned(),
        stream: Stream::Stdout,
        text: "two".to_owned(),
    }];
    let (after, cursor) = (Some("a".to_owned()), Some("b".to_owned()));
    worker.send(RuntimeLog { instance_id: id, after, cursor: cursor.clone(), lines }).await;
    platform
        .eventually(async || match platform.newest_in_memory("hello", 1).await {
            None => Ok(()),
            Some(lines) => Err(format!("{lines:?}")),
        })
        .await;
    platform.accept_lines().await;
    let stored = RuntimeLogAck { instance_id: id, cursor };
    assert_eq!(worker.next().await, HubMessage::RuntimeLogAck(stored), "on the same connection");
    let mut texts = platform.log_texts("hello").await;
    texts.sort();
    assert_eq!(texts, ["one", "two"]);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_app_that_writes_much_loses_its_oldest_lines(pool: PgPool) {
    let limit = |state: &mut AppState| {
        Arc::get_mut(&mut state.config).expect("nobody has it yet").logs.bytes_max_per_app = 1_000;
    };
    let platform = Platform::start_with(pool, limit).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let id = instance(&platform, &mut worker, "hello").await;
    worker.log(id, None, None, &[]).await;
    let (old, new) = ("o".repeat(600), "n".repeat(600));
    worker.log(id, None, Some("a"), &[&old]).await;
    worker.log(id, Some("a"), Some("b"), &[&new]).await;
    platform
        .eventually(async || {
            let texts = platform.log_texts("hello").await;
            if texts == [new.as_str()] { Ok(()) } else { Err(format!("{} lines", texts.len())) }
        })
        .await;
    platform.stop().await;
}
