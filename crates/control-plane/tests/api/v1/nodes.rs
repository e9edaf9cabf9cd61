//! `/v1/workers`, `/v1/edges`, `/v1/mesh`

use sqlx::PgPool;

use crate::server::Server;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn declared_nodes_are_listed_and_away_until_they_connect(pool: PgPool) {
    let server = Server::new(pool);
    wisehosting_control_plane::nodes::declare(&server.state).await.unwrap();
    let user = server.user("a@example.org").await;
    let workers = user.get("/v1/workers").await.expect(200);
    let edges = user.get("/v1/edges").await.expect(200);
    for (node, name) in [(&workers["workers"][0], "worker-1"), (&edges["edges"][0], "proxy-1")] {
        assert_eq!(node["name"], name);
        assert_eq!(node["connected"], false);
        assert!(node.get("state").is_none_or(|state| state == "away"), "{node}");
        assert!(node["observed_at"].is_null());
    }
    let mesh = user.get("/v1/mesh").await.expect(200);
    let names: Vec<_> = mesh["nodes"].as_array().unwrap().iter().map(|node| node["name"].clone()).collect();
    assert!(names.contains(&"worker-1".into()) && names.contains(&"proxy-1".into()), "{mesh}");
    assert!(mesh["nodes"][0]["told"].is_null() && mesh["nodes"][0]["tunnel"].is_null(), "{mesh}");
    assert!(!workers.to_string().contains("api_key"));
}
