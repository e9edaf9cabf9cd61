//! What every answer carries, and what every request is held to.

use serde_json::json;
use sqlx::PgPool;

use crate::server::Server;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn browsers_are_told_to_be_careful(pool: PgPool) {
    let server = Server::new(pool);
    for path in ["/", "/healthz", "/v1/me", "/nothing"] {
        let headers = server.nobody().get(path).await.headers;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
    }
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_large_body_is_refused(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let body = json!({ "name": "hello", "repository": "x".repeat(300 * 1024) });
    assert_eq!(user.post("/v1/apps", body).await.expect_error(413).0, "too_large");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_body_that_is_not_json_is_refused(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    let form = user.clone().header("content-type", "text/plain");
    assert_eq!(form.post("/v1/apps", json!({})).await.expect_error(415).0, "not_json");
}
