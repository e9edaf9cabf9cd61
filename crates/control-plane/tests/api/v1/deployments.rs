//! `/v1/deployments`, `/v1/deployments/{id}`

use serde_json::{Value, json};
use sqlx::PgPool;
use wisehosting_domain::state::DeploymentState;

use super::apps::hello;
use crate::{client::Client, server::Server};

async fn deploy(user: &Client) -> String {
    user.post("/v1/apps", hello()).await.expect(201);
    let deployment = user.post("/v1/apps/hello/deployments", json!({})).await.expect(201);
    deployment["id"].as_str().unwrap().to_owned()
}

fn texts(log: &Value) -> Vec<&str> {
    log["lines"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect()
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_deployment_shows_its_steps(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let id = deploy(&user).await;
    server.advance(&id, DeploymentState::Cloning).await;
    server.advance(&id, DeploymentState::Building).await;
    let deployment = user.get(&format!("/v1/deployments/{id}")).await.expect(200);
    let steps = deployment["steps"].as_array().unwrap();
    let states: Vec<_> = steps.iter().map(|step| step["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["queued", "cloning", "building"]);
    assert!(steps[0]["duration_ms"].is_u64() && steps[2]["duration_ms"].is_null());
    let listed = user.get("/v1/deployments?limit=5").await.expect(200);
    assert_eq!(listed["deployments"][0]["state"], "building");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn what_is_no_deployment_is_not_found(pool: PgPool) {
    let user = Server::new(pool).user("a@example.org").await;
    for id in ["nothing", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(user.get(&format!("/v1/deployments/{id}")).await.expect_error(404).0, "not_found");
    }
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_queued_deployment_is_cancelled_at_once_and_only_once(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let id = deploy(&user).await;
    let cancelled = user.post(&format!("/v1/deployments/{id}/cancel"), json!({})).await.expect(200);
    assert_eq!(cancelled["state"], "cancelled");
    assert!(cancelled["finished_at"].is_string());
    let again = user.post(&format!("/v1/deployments/{id}/cancel"), json!({})).await;
    let (code, _, message) = again.expect_error(409);
    assert_eq!(code, "too_late");
    assert!(message.contains("cancelled"), "{message}");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn the_build_log_is_read_from_any_line(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let id = deploy(&user).await;
    server.write_log(&id, 0, &["one", "two", "three"]).await;
    let log = user.get(&format!("/v1/deployments/{id}/log")).await.expect(200);
    assert_eq!(texts(&log), ["one", "two", "three"]);
    assert_eq!(log["lines"][2]["number"], 2);
    let log = user.get(&format!("/v1/deployments/{id}/log?after=1")).await.expect(200);
    assert_eq!(texts(&log), ["three"]);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_watcher_sees_states_and_lines_until_the_end(pool: PgPool) {
    let server = Server::new(pool);
    server.listen().await;
    let user = server.user("a@example.org").await;
    let id = deploy(&user).await;
    let mut events = user.events(&format!("/v1/deployments/{id}/events")).await;
    let state = events.next().await.unwrap();
    assert_eq!((state.name.as_str(), &state.data["state"]), ("state", &json!("queued")));

    server.advance(&id, DeploymentState::Building).await;
    assert_eq!(events.next().await.unwrap().data["state"], "building");
    server.write_log(&id, 0, &["one", "two"]).await;
    let log = events.next().await.unwrap();
    assert_eq!((log.name.as_str(), log.id.as_str()), ("log", "1"));
    assert_eq!(texts(&log.data), ["one", "two"]);

    server.advance(&id, DeploymentState::Failed).await;
    assert_eq!(events.next().await.unwrap().data["state"], "failed");
    assert!(events.next().await.is_none(), "the stream ends with the deployment");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_late_watcher_gets_all_and_one_that_comes_back_the_rest(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let id = deploy(&user).await;
    server.write_log(&id, 0, &["one", "two", "three"]).await;
    server.advance(&id, DeploymentState::Failed).await;
    let path = format!("/v1/deployments/{id}/events");

    let mut events = user.events(&path).await;
    assert_eq!(texts(&events.next().await.unwrap().data), ["one", "two", "three"]);
    assert_eq!(events.next().await.unwrap().name, "state");
    assert!(events.next().await.is_none());

    let mut events = user.clone().header("last-event-id", "1").events(&path).await;
    assert_eq!(texts(&events.next().await.unwrap().data), ["three"]);
}
