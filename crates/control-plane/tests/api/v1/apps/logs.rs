//! `/v1/apps/{name}/logs`

use sqlx::PgPool;
use wisehosting_domain::id::{AppId, InstanceId};
use wisehosting_node::random;
use wisehosting_protocol::payload::{LogLine, Stream};

use super::hello;
use crate::server::Server;

fn push(server: &Server, app: AppId, text: &str) {
    let line =
        LogLine { at: "2026-01-02T03:04:05Z".to_owned(), stream: Stream::Stderr, text: text.to_owned() };
    server.state.logs.push(app, InstanceId(random::uuid()), vec![line], server.now());
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn the_last_lines_come_first_and_then_the_new_ones(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let app = user.post("/v1/apps", hello()).await.expect(201);
    let id: AppId = app["id"].as_str().unwrap().parse().unwrap();
    for text in ["one", "two", "three"] {
        push(&server, id, text);
    }
    let log = user.get("/v1/apps/hello/logs?tail=2").await.expect(200);
    assert_eq!((&log["lines"][0]["text"], &log["lines"][1]["text"]), (&"two".into(), &"three".into()));
    assert_eq!(log["lines"][0]["stream"], "stderr");

    let mut events = user.events("/v1/apps/hello/logs?tail=1&follow=true").await;
    assert_eq!(events.next().await.unwrap().data["lines"][0]["text"], "three");
    push(&server, id, "four");
    assert_eq!(events.next().await.unwrap().data["lines"][0]["text"], "four");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_wrong_parameter_is_named(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", hello()).await.expect(201);
    for query in ["tail=many", "lines=5"] {
        let answer = user.get(&format!("/v1/apps/hello/logs?{query}")).await;
        assert_eq!(answer.expect_error(400).0, "invalid_query", "{query}");
    }
}
