//! `/v1/apps`, `/v1/apps/{name}`

mod deployments;
mod environment;
mod logs;
mod stats;

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::server::Server;

pub(crate) fn hello() -> Value {
    json!({ "name": "hello", "repository": "https://example.org/a" })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = hello();
    body[field] = value;
    body
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_app_is_made_listed_and_shown(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    assert_eq!(user.get("/v1/apps").await.expect(200), json!({ "apps": [] }));
    let app = user.post("/v1/apps", hello()).await.expect(201);
    assert_eq!(app["url"], "http://hello.localhost");
    assert_eq!(app["state"], "idle");
    assert_eq!(app["settings"]["port"], 8080);
    assert_eq!(app["settings"]["limits"]["memory_bytes"], 256 * 1024 * 1024);
    let shown = user.get("/v1/apps/hello").await.expect(200);
    assert_eq!(shown["id"], app["id"]);
    assert_eq!(user.get("/v1/apps").await.expect(200)["apps"], json!([shown]));
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn bad_input_is_one_sentence_about_one_field(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    for (body, field, words) in [
        (with("name", json!("Hello World")), "name", "is not a DNS label"),
        (with("name", json!("a".repeat(64))), "name", "is not a DNS label"),
        (with("branch", json!("--upload-pack=x")), "branch", "is not a branch name"),
        (with("limits", json!({ "memory_bytes": 1 })), "limits.memory_bytes", "16 MiB to 256 GiB"),
        (with("limits", json!({ "cpu_millis": 1 })), "limits.cpu_millis", "50 to 64000"),
        (with("limits", json!({ "pids": 1 })), "limits.pids", "8 to 32768"),
        (
            with("limits", json!({ "bandwidth_bits_per_s": 1 })),
            "limits.bandwidth_bits_per_s",
            "100 kbit/s to 10 Gbit/s",
        ),
        (with("limits", json!({ "disk_bytes": 1 })), "limits.disk_bytes", "16 MiB to 16 TiB"),
        (with("limits", json!({ "gpu": 1 })), "limits.gpu", "unknown field"),
        (with("repository", json!("--upload-pack=x")), "repository", "must be an https://"),
        (with("repository", json!("https://me:secret@example.org/a")), "repository", "set a login instead"),
        (with("repository", json!("/srv/a")), "repository", "not allowed here"),
        (with("repository", json!("file:///srv/a")), "repository", "not allowed here"),
        (with("port", json!(0)), "port", "1 to 65535"),
        (with("port", json!(70_000)), "port", "expected u16"),
        (with("health_path", json!("health")), "health_path", "starts with a slash"),
        (with("health_timeout_ms", json!(1)), "health_timeout_ms", "1000 to 600000"),
        (with("environment", json!({ "A B": "x" })), "environment", "is not a variable's name"),
        (with("environment", json!({ "A": "\u{0}" })), "environment", "without NUL"),
        (with("colour", json!("red")), "colour", "unknown field"),
        (json!({ "name": "hello" }), "repository", "missing field"),
    ] {
        let (code, at, message) = user.post("/v1/apps", body).await.expect_error(422);
        assert_eq!((code.as_str(), at.as_str()), ("invalid", field), "{message}");
        assert!(message.contains(words) && !message.contains("secret"), "{message}");
    }
    assert_eq!(user.get("/v1/apps").await.expect(200), json!({ "apps": [] }));
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_name_is_taken_once_over_all_users(pool: PgPool) {
    let server = Server::new(pool);
    let (user, other) = (server.user("a@example.org").await, server.user("b@example.org").await);
    user.post("/v1/apps", hello()).await.expect(201);
    for client in [&user, &other] {
        let (code, field, _) = client.post("/v1/apps", hello()).await.expect_error(409);
        assert_eq!((code.as_str(), field.as_str()), ("name_taken", "name"));
    }
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_change_keeps_what_it_does_not_name(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", with("branch", json!("main"))).await.expect(201);
    let change = json!({ "port": 3000, "limits": { "pids": 64 } });
    let app = user.send("PATCH", "/v1/apps/hello", Some(change)).await.expect(200);
    let settings = &app["settings"];
    assert_eq!((&settings["port"], &settings["limits"]["pids"]), (&json!(3000), &json!(64)));
    assert_eq!((&settings["branch"], &settings["limits"]["cpu_millis"]), (&json!("main"), &json!(1_000)));
    let app = user.send("PATCH", "/v1/apps/hello", Some(json!({ "branch": null }))).await.expect(200);
    assert_eq!(app["settings"]["branch"], Value::Null);

    for (limits, bandwidth) in [
        (json!({ "bandwidth_bits_per_s": 10_000_000 }), json!(10_000_000)),
        (json!({ "pids": 65 }), json!(10_000_000)),
        (json!({ "bandwidth_bits_per_s": null }), Value::Null),
    ] {
        let change = json!({ "limits": limits });
        let app = user.send("PATCH", "/v1/apps/hello", Some(change)).await.expect(200);
        assert_eq!(app["settings"]["limits"]["bandwidth_bits_per_s"], bandwidth);
    }
    for (limits, disk) in [
        (json!({ "disk_bytes": 1_073_741_824 }), json!(1_073_741_824)),
        (json!({ "pids": 66 }), json!(1_073_741_824)),
        (json!({ "disk_bytes": null }), Value::Null),
    ] {
        let change = json!({ "limits": limits });
        let app = user.send("PATCH", "/v1/apps/hello", Some(change)).await.expect(200);
        assert_eq!(app["settings"]["limits"]["disk_bytes"], disk);
    }
    for (change, read_only) in [
        (json!({ "port": 3000 }), Value::Null),
        (json!({ "read_only": false }), json!(false)),
        (json!({ "read_only": true }), json!(true)),
        (json!({ "port": 3001 }), json!(true)),
        (json!({ "read_only": null }), Value::Null),
    ] {
        let app = user.send("PATCH", "/v1/apps/hello", Some(change)).await.expect(200);
        assert_eq!(app["settings"]["read_only"], read_only);
    }
    let app = user.get("/v1/apps/hello").await.expect(200);
    assert_eq!(user.get("/v1/apps/hello").await.expect(200), app);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_bad_change_changes_nothing(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let app = user.post("/v1/apps", hello()).await.expect(201);
    let change = json!({ "port": 3000, "limits": { "memory_bytes": 1 } });
    user.send("PATCH", "/v1/apps/hello", Some(change)).await.expect_error(422);
    assert_eq!(user.get("/v1/apps/hello").await.expect(200), app);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_deleted_app_is_gone_for_its_owner(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", hello()).await.expect(201);
    user.send("DELETE", "/v1/apps/hello", None).await.expect(204);
    user.send("DELETE", "/v1/apps/hello", None).await.expect_error(404);
    user.get("/v1/apps/hello").await.expect_error(404);
    assert_eq!(user.get("/v1/apps").await.expect(200), json!({ "apps": [] }));
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_app_is_stopped_and_started_by_what_is_deployed(pool: PgPool) {
    let server = Server::new(pool.clone());
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", hello()).await.expect(201);
    let post = async |path: &str| user.post(&format!("/v1/apps/hello/{path}"), json!({})).await;
    assert_eq!(post("restart").await.expect_error(409).0, "never_served");
    assert_eq!(post("start").await.expect_error(409).0, "not_stopped");
    assert_eq!(post("stop").await.expect(200)["state"], "stopped");
    assert_eq!(post("start").await.expect_error(409).0, "never_served");
    post("deployments").await.expect(201);
    assert_eq!(user.get("/v1/apps/hello").await.expect(200)["state"], "deploying");
    assert_eq!(post("restart").await.expect_error(409).0, "under_way");

    let commit = "0123456789012345678901234567890123456789";
    let live = "UPDATE deployments SET state = 'live', commit = $1, image_id = 'sha256:00'";
    sqlx::query(live).bind(commit).execute(&pool).await.unwrap();
    let patch = json!({ "environment": { "NEW": "1" } });
    user.send("PATCH", "/v1/apps/hello", Some(patch)).await.expect(200);
    let restart = post("restart").await.expect(201);
    assert_eq!((&restart["state"], &restart["commit"]), (&json!("queued"), &json!(commit)));
    let first = user.get("/v1/apps/hello/deployments").await.expect(200)["deployments"][1]["id"].clone();
    assert_eq!(restart["repeats"], first);
    let snapshot: Value = sqlx::query_scalar("SELECT snapshot FROM deployments WHERE number = 2")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(snapshot["environment"]["NEW"].is_object(), "the settings are those of now: {snapshot}");
}
