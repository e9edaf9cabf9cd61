//! Lines of apps, read in order; lines of apps and of builds, removed by age and size.

use sqlx::PgPool;
use wisehosting_domain::id::{AppId, DeploymentId, InstanceId, UserId};
use wisehosting_store::{
    MIGRATOR, PgConnection, build_log, deployment_state,
    runtime_log::{self, NewLine, Stream, Tail},
};

use crate::fixture::{USER, app, at, deploy, id, platform};

const ALL: Tail = Tail { since: None, lines_max: 100_000, bytes_max: 100_000_000 };

/// Stores a line of these texts each, written and stored at that second.
async fn write(conn: &mut PgConnection, app: AppId, seconds: i64, texts: &[&str]) {
    let line = |text: &&str| NewLine { at: at(seconds), stream: Stream::Stdout, text: (*text).to_owned() };
    let lines = texts.iter().map(line).collect();
    runtime_log::append(conn, app, InstanceId(id(9)), lines, at(seconds)).await.unwrap();
}

async fn texts(conn: &mut PgConnection, app: AppId, tail: Tail) -> Vec<String> {
    let lines = runtime_log::tail(conn, USER, &[app], tail).await.unwrap();
    lines.into_iter().map(|line| line.text).collect()
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_newest_lines_are_found_among_many_chunks(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    platform(&mut conn).await;
    let app = app(&mut conn, 1, "hello").await;
    // What was written late came early.
    for seconds in (0..200).rev() {
        write(&mut conn, app, seconds, &[&seconds.to_string()]).await;
    }
    assert_eq!(texts(&mut conn, app, Tail { lines_max: 3, ..ALL }).await, ["197", "198", "199"]);
    assert_eq!(texts(&mut conn, app, Tail { bytes_max: 8, ..ALL }).await, ["198", "199"]);
    assert_eq!(texts(&mut conn, app, Tail { since: Some(at(198)), ..ALL }).await, ["198", "199"]);
    assert_eq!(texts(&mut conn, app, ALL).await.len(), 200);
    let stranger = runtime_log::tail(&mut conn, UserId(id(2)), &[app], ALL).await.unwrap();
    assert!(stranger.is_empty());
    assert!(runtime_log::after(&mut conn, UserId(id(2)), app, 0).await.unwrap().is_empty());

    let (mut last, mut count) = (0, 0);
    loop {
        let next = runtime_log::after(&mut conn, USER, app, last).await.unwrap();
        let Some(newest) = next.last() else { break };
        assert!(next[0].number > last && next.is_sorted_by_key(|line| line.number));
        (last, count) = (newest.number, count + next.len());
    }
    assert_eq!(count, 200);
    assert!(runtime_log::newest(&mut conn, &[app]).await.unwrap()[&app] >= last);
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn large_chunks_are_read_a_few_at_a_time(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    platform(&mut conn).await;
    let app = app(&mut conn, 1, "hello").await;
    let large = "x".repeat(400_000);
    for seconds in 0..8 {
        write(&mut conn, app, seconds, &[&large, &seconds.to_string()]).await;
    }
    assert_eq!(texts(&mut conn, app, ALL).await.len(), 16);
    assert_eq!(texts(&mut conn, app, Tail { lines_max: 1, ..ALL }).await, ["7"]);
    let page = runtime_log::after(&mut conn, USER, app, 0).await.unwrap();
    assert_eq!(page.len(), 6, "a megabyte, and what was begun");
    let next = runtime_log::after(&mut conn, USER, app, page[5].number).await.unwrap();
    assert_eq!(next[1].text, "3", "and it goes on from there");
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn what_is_old_or_too_much_is_removed(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    platform(&mut conn).await;
    let (loud, quiet) = (app(&mut conn, 1, "loud").await, app(&mut conn, 2, "quiet").await);
    let long = "x".repeat(1_000);
    for seconds in 1..=10 {
        write(&mut conn, loud, seconds, &[&long]).await;
        write(&mut conn, quiet, seconds, &["y"]).await;
    }
    assert_eq!(runtime_log::prune(&mut conn, at(3), 1_000_000).await.unwrap(), 4);
    let kept = runtime_log::prune(&mut conn, at(0), 7_000).await.unwrap();
    assert_eq!((kept, texts(&mut conn, loud, ALL).await.len()), (3, 5), "the newest are kept");
    assert_eq!(texts(&mut conn, quiet, ALL).await.len(), 8);
    let newest = runtime_log::tail(&mut conn, USER, &[loud], ALL).await.unwrap();
    assert_eq!(newest[0].at, at(6));
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn logs_of_builds_go_by_age_and_by_their_number_and_the_last_one_stays(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    platform(&mut conn).await;
    for (n, name) in [(1, "often"), (2, "rarely")] {
        app(&mut conn, n, name).await;
    }
    // The last one of all is not over.
    let often = [10, 11, 12, 13, 14];
    let rarely = [20, 21];
    for n in often {
        deploy(&mut conn, n, "often", n as i64).await;
    }
    for n in rarely {
        deploy(&mut conn, n, "rarely", 0).await;
    }
    for n in often.iter().chain(&rarely) {
        sqlx::query("INSERT INTO build_log_lines VALUES ($1, 0, now(), 'stdout', 'text')")
            .bind(id(*n))
            .execute(&mut *conn)
            .await
            .unwrap();
        if *n != 14 {
            deployment_state::fail(&mut conn, DeploymentId(id(*n)), "it failed", at(100)).await.unwrap();
        }
    }
    let mut left = async |before, builds_max| {
        build_log::prune(&mut conn, at(before), builds_max).await.unwrap();
        let mut left = Vec::new();
        for n in often.iter().chain(&rarely) {
            if !build_log::read(&mut conn, USER, DeploymentId(id(*n)), 0, 1).await.unwrap().is_empty() {
                left.push(*n);
            }
        }
        left
    };
    assert_eq!(left(11, 10).await, [11, 12, 13, 14, 21], "what is too old is gone, but for the last one");
    assert_eq!(left(0, 2).await, [12, 13, 14, 21], "no app has more");
    assert_eq!(left(1_000, 2).await, [13, 14, 21], "what goes on has its log");
}
