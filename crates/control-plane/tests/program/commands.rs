//! What an operator types.

use sqlx::PgPool;

use crate::control_plane::Site;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_printed_token_works_until_it_is_revoked_and_is_not_stored(pool: PgPool) {
    let site = Site::new(&pool);
    site.let_postgres_come();
    let token = site.printed_by(&["token", "create", "--email", "a@example.org", "--name", "laptop"]);
    let control_plane = site.run();
    control_plane.until_health_is(200).await;
    let client = wisehosting_node::http::client().unwrap();
    let me = client.get(format!("{}/v1/me", control_plane.url)).bearer_auth(&token).send().await.unwrap();
    assert_eq!(me.status().as_u16(), 200);
    assert!(me.text().await.unwrap().contains("a@example.org"));
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT token_hash FROM api_tokens").fetch_one(&pool).await.unwrap();
    assert_eq!(stored.len(), 32);
    assert_ne!(stored, token.as_bytes());
    site.printed_by(&["token", "revoke", "--email", "a@example.org", "--name", "laptop"]);
    let me = client.get(format!("{}/v1/me", control_plane.url)).bearer_auth(&token).send().await.unwrap();
    assert_eq!(me.status().as_u16(), 401);
    assert_eq!(control_plane.stop().0, Some(0));
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_sign_in_link_carries_its_token_where_no_server_sees_it(pool: PgPool) {
    let site = Site::new(&pool);
    site.let_postgres_come();
    let link = site.printed_by(&["login-link", "--email", "A@example.org"]);
    assert!(link.starts_with("http://127.0.0.1/#/sign-in/"), "{link}");
    let users: Vec<String> = sqlx::query_scalar("SELECT email FROM users").fetch_all(&pool).await.unwrap();
    assert_eq!(users, ["a@example.org"]);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_wrong_command_says_what_is_wrong(pool: PgPool) {
    let site = Site::new(&pool);
    site.let_postgres_come();
    site.printed_by(&["token", "create", "--email", "a@example.org", "--name", "laptop"]);
    for (arguments, words) in [
        (vec!["token", "create", "--email", "a@example.org", "--name", "laptop"], "choose another name"),
        (vec!["token", "revoke", "--email", "a@example.org", "--name", "phone"], "has no token named"),
        (vec!["login-link", "--email", "somebody"], "is not an address"),
        (vec!["worker", "drain", "--name", "worker-9"], "declares no worker worker-9"),
        (vec!["certificate", "forget", "--host", "a.localhost"], "no certificate of a.localhost is kept"),
    ] {
        let output = site.command(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(words), "{error}");
    }
}
