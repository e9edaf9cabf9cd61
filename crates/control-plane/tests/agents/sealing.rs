//! Users' secrets in the database: sealed, sealed anew by another key, and lost with their key.

use std::sync::Arc;

use serde_json::Value;
use sqlx::PgPool;
use wisehosting_control_plane::{config::Secrets, sealing::KeyRing, state::AppState};
use wisehosting_domain::state::{DeploymentState, InstanceState};
use wisehosting_protocol::payload::{Job, Outcome, Work};
use wisehosting_store::MIGRATOR;

use crate::{
    agent::Agent,
    platform::{MASTER_KEY, Platform, TRAEFIK_TOKEN},
};

pub(crate) const NEXT_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

pub(crate) async fn start(pool: &PgPool, keys: &[&str]) -> Platform {
    start_with(pool, keys, |_| {}).await
}

/// A control plane with these keys that is not quite the usual one.
pub(crate) async fn start_with(pool: &PgPool, keys: &[&str], change: impl FnOnce(&mut AppState)) -> Platform {
    let keys = KeyRing::parse(&keys.join("\n")).unwrap();
    Platform::start_with(pool.clone(), |state| {
        change(state);
        state.secrets = Arc::new(Secrets {
            jwt: "jwt-secret".into(),
            traefik_token: TRAEFIK_TOKEN.into(),
            keys,
            mesh_key: None,
            database_password: None,
        });
    })
    .await
}

pub(crate) fn key_id(key: &str) -> String {
    KeyRing::parse(key).unwrap().key_id().to_owned()
}

/// The value of `KEY` in an app and in a deployment.
async fn stored(pool: &PgPool) -> [Value; 2] {
    let query = "SELECT a.environment -> 'KEY', d.snapshot -> 'environment' -> 'KEY'
                 FROM apps a JOIN deployments d ON d.app_id = a.id ORDER BY d.created_at LIMIT 1";
    let (app, deployment) = sqlx::query_as(query).fetch_one(pool).await.unwrap();
    [app, deployment]
}

fn value(job: &Job) -> &str {
    let Work::Deploy(deploy) = &job.work else { panic!("no deploy") };
    deploy.environment["KEY"].expose()
}

/// The tables that hold this text, whatever the column is.
pub(crate) async fn tables_with(pool: &PgPool, text: &str) -> Vec<String> {
    let names =
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(pool).await.unwrap();
    assert!(names.iter().any(|name| name == "apps"), "{names:?}");
    let mut found = Vec::new();
    for name in names {
        let count = format!("SELECT count(*) FROM \"{name}\" row WHERE position($1 in row::text) > 0");
        let count: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(count)).bind(text).fetch_one(pool).await.unwrap();
        if count > 0 {
            found.push(name);
        }
    }
    found
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn values_in_clear_or_of_an_older_key_are_sealed_at_the_start(pool: PgPool) {
    let platform = start(&pool, &[MASTER_KEY]).await;
    platform.create_app("hello").await;
    platform.deploy("hello").await;
    platform.stop().await;
    // As an older version stored it.
    for clear in [
        r#"UPDATE apps SET environment = '{"KEY": "in the open"}'"#,
        r#"UPDATE deployments SET snapshot = jsonb_set(snapshot, '{environment}', '{"KEY": "in the open"}')"#,
    ] {
        sqlx::query(clear).execute(&pool).await.unwrap();
    }
    assert_eq!(tables_with(&pool, "in the open").await, ["apps", "deployments"]);

    for keys in [&[MASTER_KEY][..], &[NEXT_KEY, MASTER_KEY], &[NEXT_KEY]] {
        let platform = start(&pool, keys).await;
        assert_eq!(tables_with(&pool, "in the open").await, [""; 0]);
        let values = stored(&pool).await;
        assert_eq!(values.each_ref().map(|value| &value["k"]), [&Value::from(key_id(keys[0])); 2]);
        platform.stop().await;
        let platform = start(&pool, keys).await;
        assert_eq!(stored(&pool).await, values, "what the present key has sealed stays as it is");
        platform.stop().await;
    }
    let platform = start(&pool, &[NEXT_KEY]).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    assert_eq!(value(&worker.deploy_job().await), "in the open");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_value_whose_key_is_lost_fails_deploys_of_its_own_app_and_is_kept(pool: PgPool) {
    let platform = start(&pool, &[MASTER_KEY]).await;
    platform.create_app("hello").await;
    let waiting = platform.deploy("hello").await;
    let before = stored(&pool).await;
    platform.stop().await;

    let platform = start(&pool, &[NEXT_KEY]).await;
    platform.create_app("other").await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let failed = platform.reaches(waiting, DeploymentState::Failed).await;
    let message = failed.message.unwrap();
    for words in ["hello: the variable KEY cannot be read", &key_id(MASTER_KEY), "Set it again"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(platform.instance_states(waiting).await, [InstanceState::Failed]);
    platform.deploy("other").await;
    let job = worker.deploy_job().await;
    assert_eq!((job.app.as_str(), value(&job)), ("other", "value"));
    worker.finish(&job, Outcome::Failed { message: "enough".to_owned() }).await;
    drop(worker);
    platform.stop().await;
    assert_eq!(stored(&pool).await, before, "nothing is lost");

    let platform = start(&pool, &[NEXT_KEY, MASTER_KEY]).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.deploy("hello").await;
    assert_eq!(value(&worker.deploy_job().await), "value");
    platform.stop().await;
}

/// A job that its worker never got, given away by a control plane whose key is gone now.
#[sqlx::test(migrator = "MIGRATOR")]
async fn a_job_that_cannot_be_sent_again_fails_at_once(pool: PgPool) {
    let platform = start(&pool, &[MASTER_KEY]).await;
    platform.create_app("hello").await;
    let worker = Agent::worker(&platform, "worker-1").await;
    let id = platform.deploy("hello").await;
    platform.instance_reaches(id, InstanceState::Starting).await;
    drop(worker);
    platform.stop().await;

    let platform = start(&pool, &[NEXT_KEY]).await;
    let _worker = Agent::worker(&platform, "worker-1").await;
    let failed = platform.reaches(id, DeploymentState::Failed).await;
    assert!(failed.message.unwrap().contains("the variable KEY cannot be read"));
    platform.stop().await;
}
