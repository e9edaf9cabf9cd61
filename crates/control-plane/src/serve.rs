//! Running: two listeners, the background tasks, and an orderly end.
//!
//! The program serves as soon as its sockets are open. While Postgres is away it says so, and goes on by itself.

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use secrecy::ExposeSecret;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use wisehosting_control_plane::{
    certificates,
    config::{Config, Secrets},
    connections, mesh, router,
    state::AppState,
    tasks,
};
use wisehosting_node::{
    clock::SystemClock,
    config::ConfigError,
    descriptors,
    listen::PassedSockets,
    mesh::{Member, Mesh, PeerSets},
    service_manager, shutdown, tls,
};
use wisehosting_store::pool;

/// How long requests and tasks may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Open connections of one address. An agent needs two: one to register, one for its channel.
const INTERNAL_PER_PEER: usize = 64;
/// The same for browsers and programs: one address may be a proxy in front of all of them.
const PUBLIC_PER_PEER: usize = 4_096;

pub(crate) fn run(config: Config, sockets: PassedSockets) -> anyhow::Result<()> {
    tls::install_provider();
    descriptors::raise_limit();
    let secrets = Secrets::read(&config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(serve(config, secrets, sockets))
}

async fn serve(mut config: Config, secrets: Secrets, mut sockets: PassedSockets) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal().context("handle signals")?;
    let password = secrets.database_password.as_ref().map(|password| password.expose_secret());
    let pool = pool::open(&config.database.url, password)
        .map_err(|error| ConfigError::invalid("database.url", format!("{:#}", anyhow::Error::from(error))))?;
    let joined = PeerSets::default();
    let pool_of_mesh = config.join.as_ref().map(|join| join.pool);
    let interface = match &config.mesh {
        Some(mesh) => {
            Some(Mesh::start(mesh, Member::Hub { joined: joined.clone(), pool: pool_of_mesh }).await?)
        }
        None => None,
    };
    let public = sockets.take_or_bind("public", config.public.listen)?;
    let internal = sockets.take_or_bind("internal", config.internal.listen)?;
    config.certificates.authorities = certificates::authorities(&config.certificates)?;
    let state = AppState::new(config, secrets, Arc::new(SystemClock), pool, shutdown.clone());

    let mut tasks = tasks::start(&state);
    if let Some(interface) = &interface {
        let told = mesh::tell(state.clone(), interface.public_key(), interface.sight());
        let admitted = mesh::admit(state.clone(), interface.public_key(), joined);
        let both = async { tokio::join!(told, admitted) };
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            shutdown.run_until_cancelled(both).await;
        });
    }
    let public = listener(public, router::public(state.clone()), PUBLIC_PER_PEER, &state)?;
    let internal = listener(internal, router::internal(state.clone()), INTERNAL_PER_PEER, &state)?;
    service_manager::ready();
    tokio::spawn(service_manager::keep_alive(async || {}));
    until_shutdown(&shutdown, async { tokio::join!(public, internal) }).await;
    if timeout(SHUTDOWN_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("some tasks had not ended and were cut off");
    }
    if let Some(interface) = interface {
        interface.stop().await;
    }
    Ok(())
}

/// Waits for `served`, but not much longer than until `shutdown`.
async fn until_shutdown(shutdown: &CancellationToken, served: impl Future<Output = ((), ())>) {
    let cut_off = async {
        shutdown.cancelled().await;
        sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        ((), ()) = served => {}
        () = cut_off => tracing::warn!("some requests had not ended and were cut off"),
    }
}

/// Serves until the program is to end, and then until the last request has ended.
fn listener(
    socket: TcpListener,
    router: Router,
    per_peer: usize,
    state: &AppState,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let address = socket.local_addr().context("read the address of a socket")?;
    tracing::info!(%address, "listening");
    let socket = tokio::net::TcpListener::from_std(socket).context("use a socket")?;
    Ok(connections::serve(socket, router, per_peer, state.shutdown.clone()))
}
