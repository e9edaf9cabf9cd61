//! `/v1/events`

use serde_json::json;
use sqlx::PgPool;

use super::apps::hello;
use crate::server::Server;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_user_hears_of_their_own_changes_only(pool: PgPool) {
    let server = Server::new(pool);
    server.listen().await;
    let (user, other) = (server.user("a@example.org").await, server.user("b@example.org").await);
    let mut events = user.events("/v1/events").await;
    let theirs = json!({ "name": "theirs", "repository": "https://example.org/a" });
    other.post("/v1/apps", theirs).await.expect(201);
    user.post("/v1/apps", hello()).await.expect(201);
    let event = events.next().await.unwrap();
    assert_eq!(event.name, "change");
    assert_eq!((&event.data["kind"], &event.data["app"]), (&json!("app"), &json!("hello")));

    let deployment = user.post("/v1/apps/hello/deployments", json!({})).await.expect(201);
    let event = events.next().await.unwrap();
    assert_eq!((&event.data["kind"], &event.data["id"]), (&json!("deployment"), &deployment["id"]));
}
