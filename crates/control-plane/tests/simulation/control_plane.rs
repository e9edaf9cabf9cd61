//! The control plane: one run of its program over the database, whose steps are called one by one.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    routing::{delete, post},
};
use futures_util::FutureExt as _;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{runtime::Runtime, sync::Notify, time::advance};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use wisehosting_control_plane::{
    apps::{create_app, delete_app, restart_app, stop_app},
    config::{Config, Secrets},
    deployments::{cancel_deployment, create_deployment},
    nodes,
    rollout::Rollout,
    routes::Publisher,
    scheduler::{Scheduler, leases::Leases},
    sealing::KeyRing,
    state::AppState,
    tasks::Reconciler,
};
use wisehosting_node::{clock::Clock, config};
use wisehosting_protocol::key::SigningKey;
use wisehosting_store::StoreError;

use crate::{clocks::WallClock, database::API_TOKEN, statements::Killed};

pub(crate) const WORKERS: [(&str, &str); 2] = [("worker-1", "10.50.0.11"), ("worker-2", "10.50.0.12")];
pub(crate) const EDGE: &str = "proxy-1";
const MASTER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
/// What a reconciler waits after a failure.
const RETRY_MS: u64 = 1_000;

/// The time of the control plane.
#[derive(Clone, Default)]
pub(crate) struct SharedClock {
    pub(crate) ms: Arc<AtomicU64>,
    pub(crate) wall: WallClock,
}

impl Clock for SharedClock {
    fn now(&self) -> OffsetDateTime {
        self.wall.at(self.ms.load(Ordering::Relaxed))
    }
}

/// Where the control plane's code runs: time passes here only when it is told to.
pub(crate) struct Ground {
    /// As long as it waits, tokio does not put its clock forward while Postgres is waited for. To be dropped first.
    _brake: std::sync::mpsc::Sender<()>,
    runtime: Runtime,
    pub(crate) clock: SharedClock,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (brake, released) = std::sync::mpsc::channel();
        runtime.spawn_blocking(move || released.recv());
        Self { _brake: brake, runtime, clock: SharedClock::default() }
    }

    pub(crate) fn set(&self, ms: u64) {
        let passed = ms - self.clock.ms.swap(ms, Ordering::Relaxed);
        if passed > 0 {
            self.runtime.block_on(advance(Duration::from_millis(passed)));
        }
    }

    pub(crate) fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    /// Runs a step of the control plane to its end; none if it was killed in the middle of it.
    pub(crate) fn step<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        match self.wait(AssertUnwindSafe(step).catch_unwind()) {
            Ok(done) => Some(done),
            Err(payload) if payload.is::<Killed>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }
}

/// A task of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    Scheduler,
    Leases,
    Rollout,
    Publisher,
}

pub(crate) const TASKS: [Task; 4] = [Task::Scheduler, Task::Leases, Task::Rollout, Task::Publisher];

/// One run of the program.
pub(crate) struct ControlPlane {
    pub(crate) state: AppState,
    pub(crate) router: Router,
    /// Whether it has reached its database.
    pub(crate) is_ready: bool,
    scheduler: Scheduler,
    leases: Leases,
    rollout: Rollout,
    publisher: Publisher,
}

impl ControlPlane {
    pub(crate) fn start(pool: PgPool, clock: &SharedClock) -> Self {
        let secrets = Secrets {
            jwt: "jwt".into(),
            traefik_token: "traefik".into(),
            keys: KeyRing::parse(MASTER_KEY).unwrap(),
            mesh_key: None,
            database_password: None,
        };
        let clock = Arc::new(clock.clone());
        let state = AppState::new(configuration(), secrets, clock, pool, CancellationToken::new());
        Self {
            router: router(state.clone()),
            is_ready: false,
            scheduler: Scheduler::new(state.clone()),
            leases: Leases::new(state.clone()),
            rollout: Rollout::new(state.clone()),
            publisher: Publisher(state.clone()),
            state,
        }
    }

    /// Brings the database up to date, as far as there is something to do here.
    pub(crate) async fn prepare(&mut self) -> Result<(), StoreError> {
        nodes::declare(&self.state).await?;
        self.state.signals.database_ready.send_replace(true);
        self.is_ready = true;
        Ok(())
    }

    /// One round of a task; in how many milliseconds it wants the next.
    pub(crate) async fn reconcile(&mut self, task: Task) -> Result<u64, String> {
        let round = match task {
            Task::Scheduler => self.scheduler.reconcile().await,
            Task::Leases => self.leases.reconcile().await,
            Task::Rollout => self.rollout.reconcile().await,
            Task::Publisher => self.publisher.reconcile().await,
        };
        match round {
            Ok(pause) => Ok(u64::try_from(pause.as_millis()).unwrap()),
            Err(error) if error.is_unavailable() => Ok(RETRY_MS),
            Err(error) => Err(chain(&error)),
        }
    }

    /// Whether somebody has called for a task since it was last asked.
    pub(crate) fn is_called(&self, task: Task) -> bool {
        let signals = &self.state.signals;
        let called = |notify: &Notify| notify.notified().now_or_never().is_some();
        match task {
            Task::Scheduler => called(&signals.jobs),
            Task::Leases => false,
            Task::Rollout => called(&signals.rollout),
            Task::Publisher => called(&signals.routes),
        }
    }
}

/// A request of the user, and its answer.
pub(crate) async fn ask(
    router: Router,
    method: &str,
    path: String,
    body: String,
) -> (StatusCode, serde_json::Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {API_TOKEN}"))
        .header("content-type", "application/json")
        .body(Body::from(body))
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What the user asks for.
fn router(state: AppState) -> Router {
    Router::new()
        .route("/v1/apps", post(create_app::create_app))
        .route("/v1/apps/{name}", delete(delete_app::delete_app))
        .route("/v1/apps/{name}/restart", post(restart_app::restart_app))
        .route("/v1/apps/{name}/start", post(restart_app::start_app))
        .route("/v1/apps/{name}/stop", post(stop_app::stop_app))
        .route("/v1/apps/{name}/deployments", post(create_deployment::create_deployment))
        .route("/v1/deployments/{id}/cancel", post(cancel_deployment::cancel_deployment))
        .with_state(state)
}

pub(crate) fn signing_key(node: &str) -> SigningKey {
    SigningKey::derive(&format!("key-of-{node}"))
}

fn configuration() -> Config {
    let mut text = "[public]\nlisten = \"127.0.0.1:0\"\nbase_url = \"http://127.0.0.1:1\"\n\
                    [internal]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"postgres:///unused\"\n[secrets]\n"
        .to_owned();
    let hash = |name| signing_key(name).as_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>();
    for (name, address) in WORKERS {
        text += &format!(
            "[[workers]]\nname = \"{name}\"\naddress = \"{address}\"\napi_key_sha256 = \"{}\"\n\
             memory_bytes = 4294967296\ncpu_millis = 8000\n",
            hash(name)
        );
    }
    text += &format!(
        "[[edges]]\nname = \"{EDGE}\"\naddress = \"10.50.0.30\"\napi_key_sha256 = \"{}\"\n",
        hash(EDGE)
    );
    config::parse(std::path::Path::new("simulated.toml"), &text, []).unwrap()
}
