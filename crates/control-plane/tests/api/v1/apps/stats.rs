//! `/v1/apps/{name}/stats`, and what lists say of it.

use serde_json::{Value, json};
use sqlx::PgPool;
use wisehosting_domain::{id::InstanceId, limits::Limits, name::Label, usage::Usage};
use wisehosting_node::random;
use wisehosting_protocol::payload::{AppStats, Heartbeat, HostStats, InstanceStats};
use wisehosting_store::{
    instances::{self, NewInstance},
    pool,
};

use super::hello;
use crate::server::Server;

fn worker() -> Label {
    "worker-1".parse().unwrap()
}

/// Gives a deployment an instance on the worker.
async fn instance(server: &Server, deployment: &Value) -> InstanceId {
    let id = InstanceId(random::uuid());
    let deployment_id = deployment["id"].as_str().unwrap().parse().unwrap();
    let limits = Limits::new(128 << 20, 500, 64).unwrap();
    let new = NewInstance { id, deployment_id, worker: &worker(), limits };
    let mut db = pool::begin(&server.state.pool).await.unwrap();
    instances::create(&mut db, &new, server.now()).await.unwrap();
    pool::commit(db).await.unwrap();
    id
}

fn tell(server: &Server, at_s: u64, instance_id: InstanceId, usage: Usage) {
    let host = HostStats {
        disk_bytes: 100,
        disk_bytes_used: 40,
        disk_bytes_wanted: 10,
        disk_limits_held: true,
        mesh_received_bytes: 3,
        mesh_sent_bytes: 4,
    };
    let instances = vec![InstanceStats { instance_id, usage }];
    let told = AppStats { observed_at_ms: at_s * 1_000, host, instances };
    server.state.hub.stats().told(&worker(), &told, server.now());
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_app_shows_what_its_instances_use(pool: PgPool) {
    let server = Server::new(pool);
    wisehosting_control_plane::nodes::declare(&server.state).await.unwrap();
    let user = server.user("a@example.org").await;
    user.post("/v1/apps", hello()).await.expect(201);
    assert_eq!(user.get("/v1/apps/hello/stats").await.expect(200), json!({ "usage": null, "instances": [] }));
    let deployment = user.post("/v1/apps/hello/deployments", json!({})).await.expect(201);
    let id = instance(&server, &deployment).await;
    let silent = user.get("/v1/apps/hello/stats").await.expect(200);
    assert_eq!(silent["instances"][0]["usage"], Value::Null);
    assert_eq!(user.get("/v1/apps/hello").await.expect(200)["usage"], Value::Null);

    let first = Usage {
        cpu_us: 1_000_000,
        memory_bytes: 5 << 20,
        processes: 2,
        received_bytes: 100,
        sent_bytes: 200,
        disk_bytes: None,
        disk_read_bytes: None,
        disk_written_bytes: Some(0),
    };
    tell(&server, 1_000, id, first);
    let later = Usage {
        cpu_us: 3_500_000,
        memory_bytes: 6 << 20,
        received_bytes: 1_100,
        sent_bytes: 20_200,
        disk_bytes: Some(7),
        disk_written_bytes: Some(30_000),
        ..first
    };
    tell(&server, 1_010, id, later);
    let stats = user.get("/v1/apps/hello/stats").await.expect(200);
    assert_eq!(stats["usage"], json!({ "cpu_millis": 250, "memory_bytes": 6 << 20 }));
    let shown = &stats["instances"][0];
    assert_eq!(
        (&shown["instance_id"], &shown["worker"], &shown["state"]),
        (&json!(id.0), &json!("worker-1"), &json!("starting"))
    );
    assert_eq!((&shown["cpu_millis_max"], &shown["memory_bytes_max"]), (&json!(500), &json!(128 << 20)));
    let usage = &shown["usage"];
    assert_eq!((&usage["received_bytes_per_s"], &usage["sent_bytes_per_s"]), (&json!(100), &json!(2_000)));
    assert_eq!((&usage["cpu_us"], &usage["processes"]), (&json!(3_500_000), &json!(2)));
    assert_eq!(usage["disk_bytes"], 7);
    let disk = (&usage["disk_read_bytes_per_s"], &usage["disk_written_bytes_per_s"]);
    assert_eq!(disk, (&json!(null), &json!(3_000)));
    let history = shown["history"].as_array().unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!((&history[0]["cpu_millis"], &history[0]["memory_bytes"]), (&json!(250), &json!(6 << 20)));

    for app in
        [&user.get("/v1/apps/hello").await.expect(200), &user.get("/v1/apps").await.expect(200)["apps"][0]]
    {
        assert_eq!(app["usage"], json!({ "cpu_millis": 250, "memory_bytes": 6 << 20 }));
    }
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_worker_shows_what_its_machine_uses(pool: PgPool) {
    let server = Server::new(pool);
    wisehosting_control_plane::nodes::declare(&server.state).await.unwrap();
    let user = server.user("a@example.org").await;
    let usage = async || user.get("/v1/workers").await.expect(200)["workers"][0]["usage"].clone();
    assert_eq!(usage().await, Value::Null);
    let heartbeat = Heartbeat {
        memory_bytes_used: 9,
        cpu_millis_used: 1_500,
        instances: Some(1),
        running_jobs: Vec::new(),
    };
    server.state.hub.stats().heartbeat(&worker(), &heartbeat, server.now());
    tell(&server, 1, InstanceId(random::uuid()), Usage::default());
    assert_eq!(
        usage().await,
        json!({
            "memory_bytes": 9,
            "cpu_millis": 1_500,
            "disk_bytes": 100,
            "disk_bytes_used": 40,
            "disk_limits_held": true,
            "mesh_received_bytes": 3,
            "mesh_sent_bytes": 4,
        })
    );
}
