//! `/healthz`

use sqlx::PgPool;

use crate::server::Server;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn it_says_whether_the_database_is_there(pool: PgPool) {
    let server = Server::new(pool.clone());
    assert_eq!(server.nobody().get("/healthz").await.expect(200)["status"], "ok");

    pool.close().await;
    let answer = server.nobody().get("/healthz").await;
    assert_eq!(answer.headers["retry-after"], "2");
    let (code, _, message) = answer.expect_error(503);
    assert_eq!(code, "database_unavailable");
    assert!(message.contains("cannot reach its database"), "{message}");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn until_the_schema_is_there_nothing_is_answered(pool: PgPool) {
    let server = Server::new(pool);
    let user = server.user("a@example.org").await;
    server.state.signals.database_ready.send_replace(false);
    for path in ["/healthz", "/v1/apps", "/v1/events"] {
        assert_eq!(user.get(path).await.expect_error(503).0, "database_unavailable", "{path}");
    }
}
