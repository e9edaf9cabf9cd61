//! A control plane on a database of its own, with one user, two workers and two edges declared.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::serve::ListenerExt as _;
use sqlx::{PgPool, postgres::PgPoolOptions};
use time::OffsetDateTime;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wisehosting_control_plane::{
    config::{Config, Secrets},
    router,
    scheduler::leases::Leases,
    sealing::{KeyRing, Place},
    state::AppState,
    tasks::{self, Reconciler as _},
};
use wisehosting_domain::{
    id::{AppId, DeploymentId, JobId, UserId},
    limits::Limits,
    name::Label,
    settings::Settings,
    source::Source,
    state::{DeploymentState, InstanceState},
};
use wisehosting_node::{
    clock::{Clock, SystemClock},
    config, random,
};
use wisehosting_protocol::key::SigningKey;
use wisehosting_store::{
    apps::{self, App},
    deployments::{self, Deployment},
    jobs, pool, users,
};

/// Longest wait for something that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Of one control plane to its database.
const CONNECTIONS_MAX: u32 = 5;
pub(crate) const USER: UserId = UserId(Uuid::from_u128(1));
pub(crate) const MASTER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
pub(crate) const TRAEFIK_TOKEN: &str = "traefik-token";

/// The machine's clock, which a test may set, or stop.
#[derive(Debug, Default)]
pub(crate) struct TestClock {
    advanced_s: AtomicI64,
    stopped_at: OnceLock<OffsetDateTime>,
}

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.advanced_s.fetch_add(by.as_secs().try_into().unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn set_back(&self, by: Duration) {
        self.advanced_s.fetch_sub(by.as_secs().try_into().unwrap(), Ordering::Relaxed);
    }

    /// From now on only the test puts it forward.
    pub(crate) fn stop(&self) {
        self.stopped_at.get_or_init(|| SystemClock.now());
    }
}

impl Clock for TestClock {
    fn now(&self) -> OffsetDateTime {
        let now = self.stopped_at.get().copied().unwrap_or_else(|| SystemClock.now());
        now + time::Duration::seconds(self.advanced_s.load(Ordering::Relaxed))
    }
}

pub(crate) struct Platform {
    pub(crate) state: AppState,
    pub(crate) clock: Arc<TestClock>,
    /// Base of the internal API.
    pub(crate) url: String,
    tasks: JoinSet<()>,
}

/// The API key of a node of this name.
pub(crate) fn api_key(node: &str) -> String {
    format!("key-of-{node}")
}

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn node(kind: &str, name: &str, address: &str) -> String {
    let hash: String =
        SigningKey::derive(&api_key(name)).as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    format!("[[{kind}]]\nname = \"{name}\"\naddress = \"{address}\"\napi_key_sha256 = \"{hash}\"\n")
}

fn configuration() -> Config {
    let mut text = "[public]\nlisten = \"127.0.0.1:0\"\nbase_url = \"http://127.0.0.1:1\"\n\
                    [internal]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"postgres:///unused\"\n[secrets]\n"
        .to_owned();
    for (kind, name, address) in [
        ("workers", "worker-1", "10.50.0.11"),
        ("workers", "worker-2", "10.50.0.12"),
        ("edges", "proxy-1", "10.50.0.30"),
    ] {
        text += &node(kind, name, address);
    }
    config::parse(Path::new("test.toml"), &text, []).unwrap()
}

impl Platform {
    pub(crate) async fn start(pool: PgPool) -> Self {
        Self::start_with(pool, |_| {}).await
    }

    /// A control plane that is not quite the usual one.
    pub(crate) async fn start_with(pool: PgPool, change: impl FnOnce(&mut AppState)) -> Self {
        let platform = Self::start_changed(pool, change, tasks::start).await;
        platform.prepare().await;
        platform
    }

    /// A control plane for which time passes only where the test says so, and nothing is overdue until the test has the
    /// leases looked at.
    pub(crate) async fn start_timeless(pool: PgPool) -> (Self, Leases) {
        let platform = Self::start_changed(pool, |_| {}, tasks::start_without_leases).await;
        platform.clock.stop();
        platform.prepare().await;
        let mut leases = Leases::new(platform.state.clone());
        leases.reconcile().await.unwrap();
        (platform, leases)
    }

    /// A control plane that has not reached its database yet.
    pub(crate) async fn start_without_database(pool: PgPool) -> Self {
        Self::start_changed(pool, |_| {}, tasks::start).await
    }

    async fn start_changed(
        pool: PgPool,
        change: impl FnOnce(&mut AppState),
        start: impl FnOnce(&AppState) -> JoinSet<()>,
    ) -> Self {
        // The tests' own pools share so few connections that tests side by side starve each other.
        let options = (*pool.connect_options()).clone();
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).connect_lazy_with(options);
        let clock = Arc::new(TestClock::default());
        let secrets = Secrets {
            jwt: "jwt-secret".into(),
            traefik_token: TRAEFIK_TOKEN.into(),
            keys: KeyRing::parse(MASTER_KEY).unwrap(),
            mesh_key: None,
            database_password: None,
        };
        let mut state =
            AppState::new(configuration(), secrets, clock.clone(), pool, CancellationToken::new());
        change(&mut state);
        let mut tasks = start(&state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        let router = router::internal(state.clone());
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { state, clock, url, tasks }
    }

    /// Waits for the database, and makes the user.
    pub(crate) async fn prepare(&self) {
        let mut ready = self.state.signals.database_ready.subscribe();
        timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.expect("no database in time").unwrap();
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        users::find_or_create(&mut connection, USER, "me@example.org", self.clock.now()).await.unwrap();
    }

    /// Ends everything, so that the database can be removed.
    pub(crate) async fn stop(mut self) {
        self.state.shutdown.cancel();
        self.tasks.shutdown().await;
        self.state.pool.close().await;
    }

    pub(crate) async fn create_app(&self, name: &str) {
        self.create_app_with(name, Limits::default()).await;
    }

    pub(crate) async fn create_app_with(&self, name: &str, limits: Limits) {
        let source =
            Source { repository: "https://example.org/a".parse().unwrap(), branch: None, commit: None };
        let id = AppId(random::uuid());
        let value = self.state.secrets.keys.seal(id, Place::Variable("KEY"), &"value".into());
        let settings = Settings {
            source,
            limits,
            port: 8080,
            health_path: "/".to_owned(),
            health_timeout_ms: 60_000,
            preset: None,
            read_only: None,
            environment: [("KEY".to_owned(), value)].into(),
        };
        let app = App {
            id,
            name: label(name),
            settings,
            login: None,
            routed: None,
            stopped: false,
            created_at: self.clock.now(),
        };
        let mut transaction = pool::begin(&self.state.pool).await.unwrap();
        apps::create(&mut transaction, USER, &app).await.unwrap();
        pool::commit(transaction).await.unwrap();
    }

    /// Queues a deployment as the REST API does.
    pub(crate) async fn deploy(&self, app: &str) -> DeploymentId {
        self.queue(app, None).await
    }

    /// Queues a restart as the REST API does.
    pub(crate) async fn repeat(&self, app: &str, deployment: DeploymentId) -> DeploymentId {
        self.queue(app, Some(deployment)).await
    }

    async fn queue(&self, app: &str, repeats: Option<DeploymentId>) -> DeploymentId {
        let (id, now) = (DeploymentId(random::uuid()), self.clock.now());
        let mut transaction = pool::begin(&self.state.pool).await.unwrap();
        let app = apps::lock(&mut transaction, USER, &label(app)).await.unwrap();
        deployments::create(&mut transaction, app.id, id, &app.settings, repeats, now).await.unwrap();
        jobs::enqueue_deploy(&mut transaction, JobId(random::uuid()), app.id, id, now).await.unwrap();
        pool::commit(transaction).await.unwrap();
        id
    }

    pub(crate) async fn stop_app(&self, name: &str) {
        let mut transaction = pool::begin(&self.state.pool).await.unwrap();
        let app = apps::lock(&mut transaction, USER, &label(name)).await.unwrap();
        apps::mark_stopped(&mut transaction, app.id, self.clock.now()).await.unwrap();
        pool::commit(transaction).await.unwrap();
        self.state.signals.rollout.notify_one();
    }

    pub(crate) async fn delete_app(&self, name: &str) {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        apps::mark_deleted(&mut connection, USER, &label(name), self.clock.now()).await.unwrap();
        self.state.signals.rollout.notify_one();
    }

    pub(crate) async fn deployment(&self, id: DeploymentId) -> Deployment {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        deployments::get(&mut connection, USER, id).await.unwrap()
    }

    pub(crate) async fn instance_states(&self, id: DeploymentId) -> Vec<InstanceState> {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        let instances = deployments::instances(&mut connection, USER, id).await.unwrap();
        instances.iter().map(|instance| instance.state).collect()
    }

    /// The states that a deployment went through.
    pub(crate) async fn steps(&self, id: DeploymentId) -> Vec<DeploymentState> {
        let mut connection = pool::acquire(&self.state.pool).await.unwrap();
        let steps = deployments::steps(&mut connection, USER, id).await.unwrap();
        steps.iter().map(|step| step.state).collect()
    }

    /// Waits until a deployment is in this state, and returns it.
    pub(crate) async fn reaches(&self, id: DeploymentId, state: DeploymentState) -> Deployment {
        self.eventually(async || {
            let deployment = self.deployment(id).await;
            if deployment.state == state { Ok(deployment) } else { Err(deployment.state.to_string()) }
        })
        .await
    }

    /// Waits until the only instance of a deployment is in this state.
    pub(crate) async fn instance_reaches(&self, id: DeploymentId, state: InstanceState) {
        self.eventually(async || {
            let states = self.instance_states(id).await;
            if states == [state] { Ok(()) } else { Err(format!("{states:?}")) }
        })
        .await;
    }

    /// Waits until a node is not connected any more.
    pub(crate) async fn is_cut_off(&self, node: &str) {
        self.eventually(async || {
            let connected = self.state.hub.is_connected(&label(node));
            if connected { Err("connected".to_owned()) } else { Ok(()) }
        })
        .await;
    }

    /// Looks again after every change, until it is so.
    pub(crate) async fn eventually<T>(&self, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
        let mut changes = self.state.changes.subscribe();
        let mut last = String::new();
        let wait = async {
            loop {
                match look().await {
                    Ok(value) => return value,
                    Err(now) => last = now,
                }
                // Not every change is announced: look now and then as well.
                let _ = timeout(Duration::from_millis(200), changes.next()).await;
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(value) => value,
            Err(_) => panic!("it did not happen in time; last: {last}"),
        }
    }
}
