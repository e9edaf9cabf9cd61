//! A real control plane on a database of its own. Only its worker is played: whatever it is to deploy runs already.

use crate::surroundings::within;
use sqlx::PgPool;
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wisehosting_control_plane::{config::Secrets, router, sealing::KeyRing, state::AppState, tasks};
use wisehosting_domain::{
    id::{AppId, DeploymentId, JobId, UserId},
    limits::Limits,
    name::Label,
    settings::Settings,
    source::Source,
};
use wisehosting_node::{
    channel::{self, Event, Identity, Role},
    clock::{Clock, SystemClock},
    config::{self, ControlPlaneEndpoint, ControlPlaneUrl},
    mesh::PeerSets,
    random,
    tls::Authorities,
};
use wisehosting_protocol::{
    key::SigningKey,
    message::HubMessage,
    payload::{Capacity, JobRef, JobResult, Outcome, Register},
};
use wisehosting_store::{
    apps::{self, App},
    certificates, changes, deployments, jobs, pool, users,
};

const MASTER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
pub(crate) const TRAEFIK_TOKEN: &str = "traefik-token";
const USER: UserId = UserId(Uuid::from_u128(1));
/// Apps are reached below it.
pub(crate) const DOMAIN: &str = "example.org";

/// A clock that only the test puts forward. It is right when a test begins, and need not be later.
#[derive(Debug)]
struct TestClock {
    started_at: OffsetDateTime,
    advanced_s: AtomicI64,
}

impl Clock for TestClock {
    fn now(&self) -> OffsetDateTime {
        self.started_at + time::Duration::seconds(self.advanced_s.load(Ordering::Relaxed))
    }
}

pub(crate) struct ControlPlane {
    pub(crate) state: AppState,
    pub(crate) url: String,
    clock: Arc<TestClock>,
    tasks: JoinSet<()>,
}

/// The API key of a node of this name.
pub(crate) fn api_key(node: &str) -> String {
    format!("key-of-{node}")
}

fn configuration() -> wisehosting_control_plane::config::Config {
    let mut text = format!(
        "[public]\nlisten = \"127.0.0.1:0\"\nbase_url = \"http://127.0.0.1:1\"\n[internal]\nlisten = \"127.0.0.1:0\"\n\
         [database]\nurl = \"postgres:///unused\"\n[secrets]\n[apps]\ndomain = \"{DOMAIN}\"\n"
    );
    for (kind, name, address) in [
        ("workers", "worker-1", "127.0.0.1"),
        ("edges", "proxy-1", "10.50.0.30"),
        ("edges", "proxy-2", "10.50.0.31"),
        ("edges", "proxy-3", "10.50.0.32"),
    ] {
        let key = SigningKey::derive(&api_key(name));
        let hash: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        text +=
            &format!("[[{kind}]]\nname = \"{name}\"\naddress = \"{address}\"\napi_key_sha256 = \"{hash}\"\n");
    }
    config::parse(Path::new("test.toml"), &text, []).unwrap()
}

impl ControlPlane {
    /// It keeps certificates of these authorities.
    pub(crate) async fn start(pool: PgPool, authorities: Authorities) -> Self {
        let clock = Arc::new(TestClock { started_at: SystemClock.now(), advanced_s: AtomicI64::default() });
        let secrets = Secrets {
            jwt: "jwt-secret".into(),
            traefik_token: TRAEFIK_TOKEN.into(),
            keys: KeyRing::parse(MASTER_KEY).unwrap(),
            mesh_key: None,
            database_password: None,
        };
        let mut config = configuration();
        config.certificates.authorities = authorities;
        let state = AppState::new(config, secrets, clock.clone(), pool, CancellationToken::new());
        let mut tasks = tasks::start(&state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = router::internal(state.clone());
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut ready = state.signals.database_ready.subscribe();
        within(ready.wait_for(|ready| *ready)).await.unwrap();
        Self { state, url, clock, tasks }
    }

    /// Waits until these nodes are connected.
    pub(crate) async fn sees(&self, nodes: &[&str]) {
        within(async {
            while !nodes.iter().all(|node| self.state.hub.is_connected(&label(node))) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Lets time pass for the control plane alone.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advanced_s.fetch_add(by.as_secs().try_into().unwrap(), Ordering::Relaxed);
        self.state.signals.certificates.notify_one();
    }

    /// Has an app served from this address.
    pub(crate) async fn deploy(&mut self, app: &str, address: SocketAddr) {
        self.tasks.spawn(work(self.url.clone(), address));
        self.sees(&["worker-1"]).await;
        let now = self.clock.now();
        let mut transaction = pool::begin(&self.state.pool).await.unwrap();
        users::find_or_create(&mut transaction, USER, "me@example.org", now).await.unwrap();
        let source =
            Source { repository: "https://example.org/a".parse().unwrap(), branch: None, commit: None };
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
        let (id, deployment) = (AppId(random::uuid()), DeploymentId(random::uuid()));
        let name = label(app);
        let app = App { id, name, settings, login: None, routed: None, stopped: false, created_at: now };
        apps::create(&mut transaction, USER, &app).await.unwrap();
        deployments::create(&mut transaction, id, deployment, &app.settings, None, now).await.unwrap();
        jobs::enqueue_deploy(&mut transaction, JobId(random::uuid()), id, deployment, now).await.unwrap();
        pool::commit(transaction).await.unwrap();
    }

    /// Has a certificate forgotten, as the operator's command does.
    pub(crate) async fn forget(&self, host: &str) {
        let mut db = pool::begin(&self.state.pool).await.unwrap();
        certificates::forget(&mut db, &host.parse().unwrap()).await.unwrap();
        pool::notify(&mut db, changes::CERTIFICATES).await.unwrap();
        pool::commit(db).await.unwrap();
    }

    /// Waits until a question about the certificate of a host name has this answer.
    pub(crate) async fn has(&self, host: &str, column: &'static str, value: i64) {
        let query = format!("SELECT {column}::int8 FROM certificates WHERE host = $1");
        within(async {
            loop {
                let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query.as_str())).bind(host);
                let found: Option<i64> = query.fetch_optional(&self.state.pool).await.unwrap();
                if found == Some(value) {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Ends everything, so that the database can be removed.
    pub(crate) async fn stop(mut self) {
        self.state.shutdown.cancel();
        self.tasks.shutdown().await;
        self.state.pool.close().await;
    }
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// A worker that has everything running already.
async fn work(url: String, address: SocketAddr) {
    let url = ControlPlaneUrl::try_from(url).unwrap();
    let endpoint = ControlPlaneEndpoint { url, name: label("worker-1"), api_key_file: None };
    let identity =
        Identity { role: Role::Worker, endpoint, api_key: api_key("worker-1").into(), version: "test" };
    let capacity = Some(Capacity { memory_bytes: 1 << 30, cpu_millis: 4_000 });
    let register = move || Register { version: "test".to_owned(), capacity, running_jobs: Vec::new() };
    let clock = Arc::new(SystemClock);
    let shutdown = CancellationToken::new();
    let _ends = shutdown.clone().drop_guard();
    let (channel, mut events) =
        channel::spawn(identity, clock, register, PeerSets::default(), shutdown).unwrap();
    while let Some(event) = events.recv().await {
        let Event::Message(HubMessage::Job(job)) = event else { continue };
        let (job_id, instance_id) = (job.job_id, job.instance_id);
        let commit = "0123456789012345678901234567890123456789".parse().unwrap();
        let outcome = Outcome::Deployed { commit, image_id: "sha256:00".to_owned(), address };
        channel.send(JobRef { job_id }).await.unwrap();
        let observed_at_ms = SystemClock.now_ms();
        channel.send(JobResult { job_id, instance_id, outcome, observed_at_ms }).await.unwrap();
    }
}
