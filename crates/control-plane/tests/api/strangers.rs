//! Every route of the OpenAPI document, asked by nobody and by somebody who owns nothing of it.
//!
//! The cases are generated from the document, so a new route is covered or fails this test.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{client::Client, server::Server};

/// What a stranger may ask for, because it is nobody's own.
const OF_EVERYBODY: [&str; 12] = [
    "get /healthz",
    "get /v1/openapi.json",
    "post /v1/session",
    "delete /v1/session",
    "get /v1/me",
    "get /v1/apps",
    "post /v1/apps",
    "get /v1/deployments",
    "get /v1/logs",
    "get /v1/workers",
    "get /v1/edges",
    "get /v1/mesh",
];
/// What has no end, and says in its own test that it shows nobody else's.
const STREAMS: [&str; 1] = ["get /v1/events"];
/// A name that stands nowhere in an example.
const APP: &str = "the-owners-own";

struct Case {
    /// Such as `get /v1/apps/{name}`.
    name: String,
    method: String,
    path: String,
    /// Whether it must be signed in.
    guarded: bool,
}

fn cases(deployment: &str) -> Vec<Case> {
    let document = serde_json::to_value(wisehosting_control_plane::openapi::document()).unwrap();
    let mut cases = Vec::new();
    for (template, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            cases.push(Case {
                name: format!("{method} {template}"),
                method: method.to_uppercase(),
                path: template.replace("{name}", APP).replace("{id}", deployment),
                guarded: operation["security"] != json!([{}]),
            });
        }
    }
    cases
}

/// A body that the route could use, if only it were asked by the right one.
fn body_for(case: &Case) -> Option<Value> {
    match case.name.as_str() {
        "post /v1/apps" => Some(json!({ "name": "new", "repository": "https://example.org/a" })),
        "post /v1/session" => Some(json!({ "token": "wrong" })),
        _ if case.method == "POST" || case.method == "PATCH" => Some(json!({})),
        _ => None,
    }
}

async fn owned(owner: &Client) -> String {
    let body = json!({ "name": APP, "repository": "https://example.org/a" });
    owner.post("/v1/apps", body).await.expect(201);
    let deployment = owner.post(&format!("/v1/apps/{APP}/deployments"), json!({})).await.expect(201);
    deployment["id"].as_str().unwrap().to_owned()
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn nobody_gets_nothing(pool: PgPool) {
    let server = Server::new(pool);
    let deployment = owned(&server.user("owner@example.org").await).await;
    for case in cases(&deployment) {
        let answer = server.nobody().send(&case.method, &case.path, body_for(&case)).await;
        if case.guarded {
            assert_eq!(answer.expect_error(401).0, "unauthenticated", "{}", case.name);
        } else {
            assert!(OF_EVERYBODY.contains(&case.name.as_str()), "{} is open to everybody", case.name);
        }
    }
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_stranger_finds_nothing_of_others(pool: PgPool) {
    let server = Server::new(pool);
    let owner = server.user("owner@example.org").await;
    let deployment = owned(&owner).await;
    let before = owner.get(&format!("/v1/apps/{APP}")).await.expect(200);
    let stranger = server.user("stranger@example.org").await;
    for case in cases(&deployment) {
        if STREAMS.contains(&case.name.as_str()) {
            continue;
        }
        let answer = stranger.send(&case.method, &case.path, body_for(&case)).await;
        if OF_EVERYBODY.contains(&case.name.as_str()) {
            let text = answer.body.to_string();
            assert!(!text.contains(APP) && !text.contains(&deployment), "{}: {text}", case.name);
        } else {
            assert_eq!(answer.expect_error(404).0, "not_found", "{}", case.name);
        }
    }
    assert_eq!(owner.get(&format!("/v1/apps/{APP}")).await.expect(200), before);
}
