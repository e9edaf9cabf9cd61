//! `/v1/session`, `/v1/me`

use serde_json::json;
use sqlx::PgPool;
use time::Duration;

use crate::{
    client::Client,
    server::{BASE_URL, Server},
};

/// Signs in, and returns the client with its cookie, as it came.
async fn sign_in(server: &Server) -> Client {
    let link = server.login_link("a@example.org", server.now() + Duration::minutes(15)).await;
    let answer = server.nobody().post("/v1/session", json!({ "token": link })).await;
    let cookie = answer.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    assert_eq!(answer.expect(201)["email"], "a@example.org");
    let pair = cookie.split(';').next().unwrap();
    server.nobody().header("cookie", pair)
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_link_signs_in_once(pool: PgPool) {
    let server = Server::new(pool);
    let link = server.login_link("a@example.org", server.now() + Duration::minutes(15)).await;
    server.nobody().post("/v1/session", json!({ "token": link })).await.expect(201);
    let again = server.nobody().post("/v1/session", json!({ "token": link })).await;
    assert_eq!(again.expect_error(401).0, "bad_link");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_expired_link_does_not_work(pool: PgPool) {
    let server = Server::new(pool);
    let link = server.login_link("a@example.org", server.now() - Duration::seconds(1)).await;
    let answer = server.nobody().post("/v1/session", json!({ "token": link })).await;
    assert_eq!(answer.expect_error(401).0, "bad_link");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn the_session_ends_when_the_user_signs_out(pool: PgPool) {
    let server = Server::new(pool);
    let browser = sign_in(&server).await.header("sec-fetch-site", "same-origin");
    assert_eq!(browser.get("/v1/me").await.expect(200)["email"], "a@example.org");
    let answer = browser.send("DELETE", "/v1/session", None).await;
    assert!(answer.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    answer.expect(204);
    browser.get("/v1/me").await.expect_error(401);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn another_site_cannot_use_the_cookie(pool: PgPool) {
    let server = Server::new(pool);
    let browser = sign_in(&server).await;
    let app = json!({ "name": "hello", "repository": "https://example.org/a" });
    for (name, value) in
        [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example"), ("x-nothing", "")]
    {
        let answer = browser.clone().header(name, value).post("/v1/apps", app.clone()).await;
        assert_eq!(answer.expect_error(403).0, "cross_site", "{name}");
    }
    browser.header("origin", BASE_URL).post("/v1/apps", app).await.expect(201);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn another_site_cannot_sign_somebody_in(pool: PgPool) {
    let server = Server::new(pool);
    let link = server.login_link("a@example.org", server.now() + Duration::minutes(15)).await;
    let evil = server.nobody().header("sec-fetch-site", "cross-site");
    assert_eq!(evil.post("/v1/session", json!({ "token": link })).await.expect_error(403).0, "cross_site");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn wrong_credentials_are_nobodys(pool: PgPool) {
    let server = Server::new(pool);
    for value in ["Bearer wrong", "Bearer ", "Basic eDp5", "Bearer"] {
        server.nobody().header("authorization", value).get("/v1/me").await.expect_error(401);
    }
    server.nobody().header("cookie", "wh_session=wrong").get("/v1/me").await.expect_error(401);
}
