//! An app's environment: set, removed, never shown.

use serde_json::{Value, json};
use sqlx::PgPool;

use super::with;
use crate::server::Server;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn variables_are_set_and_removed_one_by_one_and_only_their_names_are_shown(pool: PgPool) {
    let server = Server::new(pool.clone());
    let user = server.user("a@example.org").await;
    let app =
        user.post("/v1/apps", with("environment", json!({ "A": "hunter2", "B": "" }))).await.expect(201);
    assert_eq!(app["settings"]["environment"], json!(["A", "B"]));
    for (change, names) in [
        (json!({ "environment": { "C": "hunter2" } }), json!(["A", "B", "C"])),
        (json!({ "environment": { "A": null, "NONE": null } }), json!(["B", "C"])),
        (json!({ "port": 3000 }), json!(["B", "C"])),
    ] {
        let app = user.send("PATCH", "/v1/apps/hello", Some(change)).await.expect(200);
        assert_eq!(app["settings"]["environment"], names);
    }
    let bad = json!({ "environment": { "B": null, "C": "\u{0}hunter2" } });
    let (_, _, message) = user.send("PATCH", "/v1/apps/hello", Some(bad)).await.expect_error(422);
    assert!(!message.contains("hunter2"), "{message}");
    let many: Value = (0..255).map(|n| (format!("V{n}"), json!("x"))).collect();
    user.send("PATCH", "/v1/apps/hello", Some(json!({ "environment": many }))).await.expect_error(422);

    let large = |from: usize| {
        let values: Value =
            (from..from + 4).map(|n| (format!("L{n}"), json!("x".repeat(32 * 1_024)))).collect();
        json!({ "environment": values })
    };
    user.send("PATCH", "/v1/apps/hello", Some(large(0))).await.expect(200);
    let (_, _, message) = user.send("PATCH", "/v1/apps/hello", Some(large(4))).await.expect_error(422);
    assert!(message.contains("256 KiB at most"), "{message}");

    user.post("/v1/apps/hello/deployments", json!({})).await.expect(201);
    for path in ["/v1/apps", "/v1/apps/hello", "/v1/apps/hello/deployments"] {
        assert!(!user.get(path).await.expect(200).to_string().contains("hunter2"), "{path}");
    }
    let stored =
        "SELECT a.environment::text || d.snapshot::text FROM apps a JOIN deployments d ON d.app_id = a.id";
    let stored: String = sqlx::query_scalar(stored).fetch_one(&pool).await.unwrap();
    assert!(stored.contains("\"C\"") && !stored.contains("hunter2"), "{stored}");
}
