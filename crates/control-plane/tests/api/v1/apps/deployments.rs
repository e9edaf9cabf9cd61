//! `/v1/apps/{name}/deployments`

use serde_json::json;
use sqlx::PgPool;

use super::hello;
use crate::server::Server;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_deployment_is_queued_with_its_job(pool: PgPool) {
    let server = Server::new(pool.clone());
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", hello()).await.expect(201);
    // No body at all is fine, too.
    let first = user.send("POST", "/v1/apps/hello/deployments", None).await.expect(201);
    assert_eq!((&first["number"], &first["state"]), (&json!(1), &json!("queued")));
    assert_eq!(first["steps"][0]["state"], "queued");
    assert_eq!(first["url"], "http://hello.localhost");

    let commit = "0123456789abcdef0123456789abcdef01234567";
    let body = json!({ "branch": "feature/x", "commit": commit });
    let second = user.post("/v1/apps/hello/deployments", body).await.expect(201);
    assert_eq!((&second["number"], &second["commit"]), (&json!(2), &json!(commit)));
    assert_eq!(second["branch"], "feature/x");

    let listed = user.get("/v1/apps/hello/deployments").await.expect(200);
    assert_eq!(listed["deployments"][0]["id"], second["id"]);
    assert_eq!(listed["deployments"][1]["id"], first["id"]);
    let app = user.get("/v1/apps/hello").await.expect(200);
    assert_eq!((&app["state"], &app["latest"]["id"]), (&json!("deploying"), &second["id"]));
    let jobs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM jobs WHERE kind = 'deploy' AND state = 'pending'")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(jobs, 2);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn bad_input_queues_nothing(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", hello()).await.expect(201);
    for (body, field) in [
        (json!({ "branch": "--upload-pack=x" }), "branch"),
        (json!({ "commit": "main" }), "commit"),
        (json!({ "force": true }), "force"),
    ] {
        assert_eq!(user.post("/v1/apps/hello/deployments", body).await.expect_error(422).1, field);
    }
    user.post("/v1/apps/nothing/deployments", json!({})).await.expect_error(404);
    let listed = user.get("/v1/apps/hello/deployments").await.expect(200);
    assert_eq!(listed, json!({ "deployments": [] }));
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn deployments_asked_for_at_once_get_different_numbers(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", hello()).await.expect(201);
    let ask =
        || async { user.post("/v1/apps/hello/deployments", json!({})).await.expect(201)["number"].clone() };
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    let mut numbers = [a, b, c].map(|number| number.as_i64().unwrap());
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
}
