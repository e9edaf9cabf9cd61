//! `/v1/apps/{name}/logs` and `/v1/logs`

use serde_json::{Value, json};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use wisehosting_domain::id::{AppId, InstanceId};
use wisehosting_node::random;
use wisehosting_store::{
    pool,
    runtime_log::{self, NewLine, Stream},
};

use crate::{client::Client, server::Server};

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds) + Duration::nanoseconds(1)
}

async fn app(user: &Client, name: &str) -> AppId {
    let app = user.post("/v1/apps", json!({ "name": name, "repository": "https://example.org/a" })).await;
    app.expect(201)["id"].as_str().unwrap().parse().unwrap()
}

/// Stores lines that were written then, as a worker's message does.
async fn write(server: &Server, app: AppId, seconds: i64, texts: &[&str]) {
    let line = |text: &&str| NewLine { at: at(seconds), stream: Stream::Stderr, text: (*text).to_owned() };
    let lines = texts.iter().map(line).collect();
    let mut db = pool::begin(&server.state.pool).await.unwrap();
    let instance = InstanceId(random::uuid());
    let lines = runtime_log::append(&mut db, app, instance, lines, server.now()).await.unwrap();
    pool::commit(db).await.unwrap();
    server.state.logs.push(app, lines, server.now());
}

fn texts(log: &Value) -> Vec<&str> {
    log["lines"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect()
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn the_last_lines_come_first_and_then_the_new_ones(pool: PgPool) {
    let server = Server::new(pool.clone());
    let user = server.user("a@example.org").await;
    let id = app(&user, "hello").await;
    write(&server, id, 1, &["one", "two", "three"]).await;
    let log = user.get("/v1/apps/hello/logs?tail=2").await.expect(200);
    assert_eq!(texts(&log), ["two", "three"]);
    let line = &log["lines"][0];
    assert_eq!((&line["stream"], &line["app"]), (&json!("stderr"), &json!("hello")));
    assert_eq!(line["at"], "1970-01-01T00:00:01.000000001Z");

    let mut events = user.events("/v1/apps/hello/logs?tail=1&follow=true").await;
    assert_eq!(texts(&events.next().await.unwrap().data), ["three"]);
    write(&server, id, 2, &["four"]).await;
    let last = events.next().await.unwrap();
    assert_eq!(texts(&last.data), ["four"]);
    write(&server, id, 3, &["five"]).await;

    // Another control plane on the same database: what is stored is there, and who was cut off goes on where he was.
    let server = Server::new(pool);
    let user = server.again(&user);
    assert_eq!(texts(&user.get("/v1/apps/hello/logs").await.expect(200)).len(), 5);
    let mut events = user.clone().header("last-event-id", &last.id).events("/v1/logs?follow=true").await;
    assert_eq!(texts(&events.next().await.unwrap().data), ["five"]);
    write(&server, id, 4, &["six"]).await;
    assert_eq!(texts(&events.next().await.unwrap().data), ["six"]);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn who_reads_slowly_gets_every_line(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let id = app(&user, "hello").await;
    let mut events = user.events("/v1/apps/hello/logs?follow=true").await;
    assert!(texts(&events.next().await.unwrap().data).is_empty());
    let numbers: Vec<String> = (0..4_000).map(|number| number.to_string()).collect();
    for some in numbers.chunks(500) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        write(&server, id, 1, &some).await;
    }
    let mut read = Vec::new();
    while read.len() < numbers.len() {
        let event = events.next().await.unwrap();
        read.extend(texts(&event.data).into_iter().map(str::to_owned));
    }
    assert_eq!(read, numbers);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn logs_of_several_apps_are_one_in_the_order_of_time(pool: PgPool) {
    let server = Server::new(pool.clone());
    let user = server.user("a@example.org").await;
    let (one, two) = (app(&user, "one").await, app(&user, "two").await);
    app(&user, "silent").await;
    write(&server, one, 10, &["a"]).await;
    write(&server, two, 5, &["b"]).await;
    write(&server, one, 30, &["c"]).await;
    write(&server, two, 20, &["d"]).await;
    let since = at(20).format(&Rfc3339).unwrap();
    let restarted = Server::new(pool);
    // From memory, and from Postgres.
    for user in [user.clone(), restarted.again(&user)] {
        let read = async |query: &str| user.get(&format!("/v1/logs?{query}")).await.expect(200);
        assert_eq!(texts(&read("").await), ["b", "a", "d", "c"]);
        assert_eq!(texts(&read("apps=two,one&tail=1").await), ["c"]);
        assert_eq!(texts(&read("apps=two").await), ["b", "d"]);
        assert_eq!(texts(&read(&format!("since={since}")).await), ["d", "c"]);
        let app = &read("apps=two").await["lines"][0]["app"];
        assert_eq!(app, "two");
    }
    let stranger = server.user("b@example.org").await;
    assert!(texts(&stranger.get("/v1/logs").await.expect(200)).is_empty());
    assert_eq!(stranger.get("/v1/logs?apps=one").await.expect_error(404).0, "not_found");
    let mut events = stranger.clone().header("last-event-id", "0").events("/v1/logs?follow=true").await;
    write(&server, one, 40, &["e"]).await;
    assert!(texts(&events.next().await.unwrap().data).is_empty(), "of nobody else's app");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_wrong_parameter_is_named(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    app(&user, "hello").await;
    for path in ["/v1/apps/hello/logs", "/v1/logs"] {
        for query in ["tail=many", "lines=5", "since=yesterday"] {
            let answer = user.get(&format!("{path}?{query}")).await;
            assert_eq!(answer.expect_error(400).0, "invalid_query", "{query}");
        }
    }
}
