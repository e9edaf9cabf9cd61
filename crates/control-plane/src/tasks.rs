//! Every background task of the control plane.
//!
//! Most are reconcilers: they take no input, look at what is true, do what is missing, and may be run again at any time.
//! They run when woken, and after the time that they asked for at the latest, so a lost wake-up costs time, never
//! correctness.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use wisehosting_store::{
    StoreError,
    changes::{self, Listener},
    pool,
};

use crate::{
    certificates::Announcer,
    deployments, events, logs,
    nodes::{self, Admissions},
    rollout::Rollout,
    routes::Publisher,
    scheduler::{Scheduler, leases::Leases},
    sealing,
    state::AppState,
    workers::health::HealthWatch,
};

/// How long to wait after a failure, such as Postgres being away.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What wakes the tasks of this process; a clone wakes the same.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// True from when the schema is up to date and the declared nodes are stored.
    pub database_ready: watch::Sender<bool>,
    /// A job may be ready to begin, or a worker to take one.
    pub jobs: Arc<Notify>,
    /// A deployment, an instance or an edge is further than it was.
    pub rollout: Arc<Notify>,
    /// Nodes have joined, or were removed.
    pub nodes: Arc<Notify>,
    /// The route table has a new generation.
    pub routes: Arc<Notify>,
    /// An edge has said something of certificates, or has left.
    pub certificates: Arc<Notify>,
}

/// Starts all tasks. They end when the state's `shutdown` is cancelled.
#[must_use]
pub fn start(state: &AppState) -> JoinSet<()> {
    let mut tasks = start_without_leases(state);
    tasks.spawn(until_shutdown(state, reconcile(state, &Arc::default(), Leases::new(state.clone()))));
    tasks
}

/// As [`start`], but what is overdue ends only when the caller has [`Leases`] look, at moments of the caller's choice.
#[must_use]
pub fn start_without_leases(state: &AppState) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let signals = &state.signals;
    tasks.spawn(until_shutdown(state, prepare_database(state.clone())));
    tasks.spawn(events::listen(state.clone()));
    tasks.spawn(until_shutdown(state, listen(state.clone(), changes::JOBS, signals.jobs.clone())));
    tasks.spawn(until_shutdown(state, listen(state.clone(), changes::NODES, signals.nodes.clone())));
    let certificates = listen(state.clone(), changes::CERTIFICATES, signals.certificates.clone());
    tasks.spawn(until_shutdown(state, certificates));
    tasks.spawn(until_shutdown(state, reconcile(state, &signals.nodes, Admissions(state.clone()))));
    tasks.spawn(until_shutdown(state, reconcile(state, &signals.jobs, Scheduler::new(state.clone()))));
    tasks.spawn(until_shutdown(state, reconcile(state, &signals.rollout, Rollout::new(state.clone()))));
    tasks.spawn(until_shutdown(state, reconcile(state, &signals.routes, Publisher(state.clone()))));
    tasks.spawn(until_shutdown(state, reconcile(state, &signals.certificates, Announcer(state.clone()))));
    tasks.spawn(until_shutdown(state, reconcile(state, &state.logs.surplus(), logs::Pruner(state.clone()))));
    tasks.spawn(until_shutdown(state, reconcile(state, &Arc::default(), deployments::Pruner(state.clone()))));
    tasks.spawn(until_shutdown(state, reconcile(state, &Arc::default(), HealthWatch::new(state.clone()))));
    tasks
}

/// Work that makes what is into what should be.
pub trait Reconciler: Send + 'static {
    /// For the log.
    const NAME: &'static str;

    /// Does what is missing now; returns when to look again unless woken.
    ///
    /// # Errors
    /// It could not finish, and is to be called again soon.
    fn reconcile(&mut self) -> impl Future<Output = Result<Duration, StoreError>> + Send;
}

fn until_shutdown(
    state: &AppState,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let shutdown = state.shutdown.clone();
    async move {
        shutdown.run_until_cancelled(task).await;
    }
}

/// Runs a reconciler for ever, from when the database is ready.
fn reconcile<R: Reconciler>(
    state: &AppState,
    wake: &Arc<Notify>,
    mut reconciler: R,
) -> impl Future<Output = ()> + Send + 'static {
    let (mut ready, wake) = (state.signals.database_ready.subscribe(), wake.clone());
    async move {
        // The sender lives in the state, which the reconciler holds.
        let _ = ready.wait_for(|ready| *ready).await;
        let mut failing = false;
        loop {
            let pause = match reconciler.reconcile().await {
                Ok(pause) => {
                    if failing {
                        tracing::info!(task = R::NAME, "the task works again");
                    }
                    failing = false;
                    pause
                }
                Err(error) => {
                    if !failing {
                        let error: &dyn Error = &error;
                        tracing::warn!(task = R::NAME, error, "the task failed; trying again until it works");
                    }
                    failing = true;
                    RETRY_INTERVAL
                }
            };
            // Woken or not: both are a reason to look.
            let _ = timeout(pause, wake.notified()).await;
        }
    }
}

/// Brings the schema up to date, seals what is not sealed with the present key, and stores what the configuration declares; then the database is ready.
async fn prepare_database(state: AppState) {
    let mut failing = false;
    while let Err(error) = try_prepare_database(&state).await {
        if !failing {
            let error: &dyn Error = &error;
            tracing::error!(error, "the database cannot be prepared; trying again until it can");
        }
        failing = true;
        sleep(10 * RETRY_INTERVAL).await;
    }
    if failing {
        tracing::info!("the database is prepared");
    }
    state.signals.database_ready.send_replace(true);
}

async fn try_prepare_database(state: &AppState) -> Result<(), StoreError> {
    pool::migrate(&state.pool).await?;
    sealing::reseal(&state.pool, &state.secrets.keys).await?;
    nodes::declare(state).await
}

/// Passes Postgres' notices on a channel on to a task.
async fn listen(state: AppState, channel: &'static str, wake: Arc<Notify>) {
    loop {
        if let Ok(mut listener) = Listener::connect(&state.pool, channel).await {
            wake.notify_one();
            while listener.next().await.is_ok() {
                wake.notify_one();
            }
        }
        sleep(RETRY_INTERVAL).await;
    }
}
