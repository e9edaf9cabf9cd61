//! `/v1/openapi.json`, and the committed copy of it.

use sqlx::PgPool;

use crate::server::Server;

#[test]
fn openapi_json_is_what_is_committed() {
    let fresh = wisehosting_control_plane::openapi::to_json().unwrap();
    let committed = include_str!("../../../../web/openapi.json");
    assert!(fresh == committed, "web/openapi.json is out of date: run `cargo xtask openapi`");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn anybody_may_read_it(pool: PgPool) {
    let document = Server::new(pool).nobody().get("/v1/openapi.json").await.expect(200);
    assert_eq!(document["info"]["title"], "WiseHosting");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn what_it_does_not_list_does_not_exist(pool: PgPool) {
    let server = Server::new(pool);
    assert_eq!(server.nobody().get("/v1/nothing").await.expect_error(404).0, "no_such_route");
    let put = server.nobody().send("PUT", "/v1/apps", None).await;
    assert_eq!(put.expect_error(405).0, "method_not_allowed");
    // What agents use is not open to the public.
    for path in ["/v1/workers/ws", "/v1/edges/register", "/v1/traefik/proxy-config", "/v1/traefik/config"] {
        assert_eq!(server.nobody().get(path).await.expect_error(404).0, "no_such_route", "{path}");
    }
}
