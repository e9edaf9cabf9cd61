//! A user, two workers, and apps with deployments.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use wisehosting_domain::{
    id::{AppId, DeploymentId, InstanceId, JobId, UserId},
    limits::Limits,
    name::Label,
    settings::Settings,
    source::Source,
};
use wisehosting_store::{
    DeclaredNode,
    apps::{self, App},
    deployments,
    instances::{self, NewInstance},
    jobs, users, workers,
};

pub(crate) const USER: UserId = UserId(Uuid::from_u128(1));
pub(crate) const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    NOW + Duration::seconds(seconds)
}

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub(crate) fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

pub(crate) async fn platform(conn: &mut PgConnection) {
    users::find_or_create(conn, USER, "me@example.org", NOW).await.unwrap();
    let worker = |name: &str, last: u8| DeclaredNode { name: label(name), address: [10, 50, 0, last].into() };
    workers::declare(conn, &[worker("worker-1", 11), worker("worker-2", 12)], NOW).await.unwrap();
}

/// An app whose id is `n`.
pub(crate) async fn app(conn: &mut PgConnection, n: u128, name: &str) -> AppId {
    let source = Source { repository: "https://example.org/a".parse().unwrap(), branch: None, commit: None };
    let settings = Settings {
        source,
        limits: Limits::default(),
        port: 8080,
        health_path: "/".to_owned(),
        health_timeout_ms: 60_000,
        preset: None,
        read_only: None,
        environment: [].into(),
    };
    let app = App {
        id: AppId(id(n)),
        name: label(name),
        settings,
        login: None,
        routed: None,
        stopped: false,
        created_at: NOW,
    };
    apps::create(conn, USER, &app).await.unwrap();
    app.id
}

/// A queued deployment of the app named `name`; it and its job have the id `n`.
pub(crate) async fn deploy(conn: &mut PgConnection, n: u128, name: &str, seconds: i64) -> DeploymentId {
    let app = apps::get(conn, USER, &label(name)).await.unwrap();
    let deployment = DeploymentId(id(n));
    deployments::create(conn, app.id, deployment, &app.settings, None, at(seconds)).await.unwrap();
    jobs::enqueue_deploy(conn, JobId(id(n)), app.id, deployment, at(seconds)).await.unwrap();
    deployment
}

/// An instance with the id `n` on worker-1.
pub(crate) async fn instance(conn: &mut PgConnection, n: u128, deployment_id: DeploymentId) -> InstanceId {
    let worker = label("worker-1");
    let instance =
        NewInstance { id: InstanceId(id(n)), deployment_id, worker: &worker, limits: Limits::default() };
    instances::create(conn, &instance, NOW).await.unwrap();
    instance.id
}
