//! A control plane on a database of its own, without its background tasks unless a test starts them.

use std::{path::Path, sync::Arc};

use axum::Router;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use wisehosting_control_plane::{
    auth::token,
    config::{Config, Secrets},
    events, router,
    sealing::KeyRing,
    state::AppState,
};
use wisehosting_domain::{
    id::{DeploymentId, UserId},
    state::DeploymentState,
};
use wisehosting_node::{clock::SystemClock, config, random};
use wisehosting_store::{build_log, deployment_state, pool, users};

use crate::client::Client;

pub(crate) const BASE_URL: &str = "http://127.0.0.1:8081";

const CONFIG: &str = r#"
[public]
listen = "127.0.0.1:8081"
base_url = "http://127.0.0.1:8081"
[internal]
listen = "127.0.0.1:8082"
[database]
url = "postgres:///unused"
[secrets]
[[workers]]
name = "worker-1"
address = "10.50.0.11"
api_key_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
[[edges]]
name = "proxy-1"
address = "10.50.0.30"
api_key_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
"#;

pub(crate) struct Server {
    pub(crate) state: AppState,
    pub(crate) router: Router,
}

impl Server {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self::with(pool, "", |_| {})
    }

    /// One with more in its configuration, and other secrets.
    pub(crate) fn with(pool: PgPool, more: &str, change: impl FnOnce(&mut Secrets)) -> Self {
        let text = format!("{CONFIG}{more}");
        let config: Config = config::parse(Path::new("test.toml"), &text, []).unwrap();
        let mut secrets = Secrets {
            jwt: "jwt".into(),
            traefik_token: "traefik".into(),
            keys: KeyRing::parse("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap(),
            mesh_key: None,
            database_password: None,
        };
        change(&mut secrets);
        let state = AppState::new(config, secrets, Arc::new(SystemClock), pool, CancellationToken::new());
        state.signals.database_ready.send_replace(true);
        let router = router::public(state.clone());
        Self { state, router }
    }

    /// Passes on what Postgres announces, until the test ends.
    pub(crate) async fn listen(&self) {
        let mut changes = self.state.changes.subscribe();
        tokio::spawn(events::listen(self.state.clone()));
        // The listener says so when it is connected.
        changes.next().await;
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        self.state.clock.now()
    }

    /// A request of nobody.
    pub(crate) fn nobody(&self) -> Client {
        Client::new(self.router.clone())
    }

    /// The same somebody, who asks this server.
    pub(crate) fn again(&self, client: &Client) -> Client {
        client.with_router(self.router.clone())
    }

    /// A new user with an API token.
    pub(crate) async fn user(&self, email: &str) -> Client {
        let token = token::from_random("", random::bytes());
        let hash = token::hash(token.expose_secret());
        let mut db = pool::begin(&self.state.pool).await.unwrap();
        let user = users::find_or_create(&mut db, UserId(random::uuid()), email, self.now()).await.unwrap();
        users::create_api_token(&mut db, &hash, user.id, &token.expose_secret()[..8], self.now())
            .await
            .unwrap();
        pool::commit(db).await.unwrap();
        self.nobody().header("authorization", &format!("Bearer {}", token.expose_secret()))
    }

    /// The token of a sign-in link for a new user.
    pub(crate) async fn login_link(&self, email: &str, expires_at: OffsetDateTime) -> String {
        let token = token::from_random("", random::bytes());
        let mut db = pool::begin(&self.state.pool).await.unwrap();
        let user = users::find_or_create(&mut db, UserId(random::uuid()), email, self.now()).await.unwrap();
        let hash = token::hash(token.expose_secret());
        users::create_login_link(&mut db, &hash, user.id, expires_at).await.unwrap();
        pool::commit(db).await.unwrap();
        token.expose_secret().to_owned()
    }

    /// Moves a deployment on, as its worker's reports do.
    pub(crate) async fn advance(&self, deployment: &str, state: DeploymentState) {
        let mut db = pool::begin(&self.state.pool).await.unwrap();
        let id = deployment.parse().unwrap();
        assert!(deployment_state::advance(&mut db, id, state, self.now()).await.unwrap());
        pool::commit(db).await.unwrap();
    }

    /// Writes lines into a build log, numbered from `first`.
    pub(crate) async fn write_log(&self, deployment: &str, first: u64, texts: &[&str]) {
        let line = |(number, text): (u64, &&str)| build_log::Line {
            number,
            at: self.now(),
            stream: "stdout".to_owned(),
            text: (*text).to_owned(),
        };
        let lines: Vec<_> = (first..).zip(texts).map(line).collect();
        let id: DeploymentId = deployment.parse().unwrap();
        let worker = "worker-1".parse().unwrap();
        // A worker writes to the logs of its own jobs only.
        sqlx::query(
            "INSERT INTO workers (name, address) VALUES ('worker-1', '10.50.0.11') ON CONFLICT DO NOTHING",
        )
        .execute(&self.state.pool)
        .await
        .unwrap();
        sqlx::query("UPDATE jobs SET worker = 'worker-1' WHERE deployment_id = $1")
            .bind(id.0)
            .execute(&self.state.pool)
            .await
            .unwrap();
        let mut db = pool::begin(&self.state.pool).await.unwrap();
        build_log::append(&mut db, &worker, id, &lines).await.unwrap();
        pool::commit(db).await.unwrap();
    }
}
