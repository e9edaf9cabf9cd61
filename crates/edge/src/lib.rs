//! The edge: holds the route table and serves apps by host name.
//!
//! [`run`] is the program. The control plane's word reaches it through [`agent`]; visitors come in through [`ingress`],
//! which finds an instance in the [`table`] in force and speaks HTTP to it through [`upstream`]. [`acme`] sees to it that
//! host names have [`certificates`]. Or a [`traefik`] beside it is the [`door`]. The gateway's own [`api`] takes
//! [`forwards`], ports that lead into the mesh by themselves. What is served never depends on the control plane being there.

pub mod acme;
pub mod agent;
pub mod api;
pub mod certificates;
pub mod config;
pub mod door;
pub mod forwards;
pub mod ingress;
mod keepalive;
pub mod outside;
pub mod table;
pub mod traefik;
pub mod upstream;

use acme::{
    Acme,
    challenges::Challenges,
    sharing::{Running, sharing},
};
use agent::Agent;
use anyhow::Context;
use certificates::{Certificates, Directories};
use config::{Config, GatewayConfig, IngressConfig};
use door::Door;
use forwards::{file::ForwardsFile, keeper::Keeper};
use ingress::{Balancers, Doors, Ingress, Limits};
use outside::Machine;
use std::{error::Error, fs, num::NonZero, path::PathBuf, sync::Arc, thread, time::Duration};
use table::{Generations, ServingTable, file::TableFile};
use tokio::{net::TcpListener, runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;
use traefik::{directory::Directory, pushed::Pushed, routes::HttpRoutes};
use wisehosting_domain::routes::RouteTable;
use wisehosting_node::{
    channel::{self, ChannelHandle, Event},
    clock::SystemClock,
    config::ConfigError,
    descriptors,
    listen::PassedSockets,
    mesh::{Member, Mesh, PathTiming, PeerSets, report},
    service_manager, shutdown,
};
use wisehosting_protocol::payload::Register;

/// How long requests under way may take after SIGTERM.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Runs the edge until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub fn run(config: Config, sockets: PassedSockets) -> anyhow::Result<()> {
    descriptors::raise_limit();
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(serve(config, sockets))
}

async fn serve(config: Config, sockets: PassedSockets) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal()?;
    let sets = PeerSets::default();
    let member = Member::Node {
        state_dir: config.state.dir.clone(),
        sets: sets.clone(),
        timing: PathTiming::default(),
    };
    let mesh = match &config.mesh {
        Some(mesh) => Some(Mesh::start(mesh, member).await?),
        None => None,
    };
    let file = TableFile::open(&config.state.dir)?;
    let generations = Generations::new();
    let serving = Arc::new(ServingTable::new(last_good_table(&file), &generations));
    let challenges = Arc::new(Challenges::default());
    let certificates = certificates(&config, &challenges)?;
    let door = open_door(&config, sockets, &serving, challenges.clone(), certificates.as_ref()).await?;
    if let Some(gateway) = &config.gateway {
        start_gateway(&config, gateway, &shutdown).await?;
    }
    let running = Running::default();
    let (channel, events) = open_channel(&config, &running, sets, &shutdown)?;
    let (mailbox, sharing) = sharing(challenges.clone(), running, channel.clone());
    if let (Door::BuiltIn(ingress), Some(acme), Some(certificates)) =
        (&door, &config.ingress.acme, certificates)
    {
        let clock = Arc::new(SystemClock);
        let acme = Acme::new(acme.clone(), acme_dir(&config), challenges, certificates, sharing, clock);
        tokio::spawn(acme.run(ingress.hosts(), shutdown.clone()));
    }
    if let Some(mesh) = &mesh {
        tokio::spawn(report(mesh.sight(), channel.clone()));
    }
    service_manager::ready();
    let pulse = door.pulse();
    tokio::spawn(service_manager::keep_alive(move || pulse.clone().felt()));
    let machine = Machine { door, file };
    let machine = Agent::new(machine, generations, serving, channel, mailbox).run(events, &shutdown).await;
    machine.door.shutdown(SHUTDOWN_GRACE).await;
    if let Some(mesh) = mesh {
        mesh.stop().await;
    }
    Ok(())
}

/// Begins to serve the table, by this program or by Traefik.
async fn open_door(
    config: &Config,
    sockets: PassedSockets,
    serving: &Arc<ServingTable>,
    challenges: Arc<Challenges>,
    certificates: Option<&Arc<Certificates>>,
) -> anyhow::Result<Door> {
    if let Some(traefik) = &config.ingress.traefik {
        let pushed = Pushed::new(Directory::new(&traefik.dynamic_dir), traefik.front());
        // An edge that was never told any routes does not end those that Traefik has.
        if serving.is_known() {
            pushed.install(serving).await.context("write the routes for Traefik")?;
        }
        return Ok(Door::Traefik(pushed));
    }
    let doors = doors(config, sockets, certificates, challenges)?;
    Ok(Door::BuiltIn(Ingress::start(doors, thread_count(), serving)?))
}

/// Puts the saved forwards and routes in force, as far as they are allowed still, and then answers requests.
async fn start_gateway(
    config: &Config,
    gateway: &GatewayConfig,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mesh = config.gateway_mesh(gateway)?;
    let routes = config.ingress.traefik.as_ref().map(|traefik| {
        HttpRoutes::new(Directory::new(&traefik.dynamic_dir), mesh.bounds.clone(), traefik.front())
    });
    if let Some(routes) = &routes {
        routes.set_refused_aside().await?;
    }
    let keeper = Keeper::start(mesh, ForwardsFile::new(&config.state.dir)).await?;
    let listener = TcpListener::bind(gateway.listen)
        .await
        .with_context(|| format!("listen on {} for the gateway's API", gateway.listen))?;
    let router = api::router(keeper.clone(), routes, gateway.token()?);
    tokio::spawn(keeper.watch(shutdown.clone()));
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(error = &error as &dyn Error, "the gateway's API has ended");
        }
    });
    Ok(())
}

/// The channel to the control plane, which is told of the orders of certificates that run.
fn open_channel(
    config: &Config,
    running: &Running,
    sets: PeerSets,
    shutdown: &CancellationToken,
) -> anyhow::Result<(ChannelHandle, mpsc::Receiver<Event>)> {
    let (version, running) = (env!("CARGO_PKG_VERSION").to_owned(), running.clone());
    let register =
        move || Register { version: version.clone(), capacity: None, running_jobs: running.list() };
    let clock = Arc::new(SystemClock);
    Ok(channel::spawn(config.identity()?, clock, register, sets, shutdown.clone())?)
}

/// What was served last. A file that cannot be read must not keep the edge from starting: the control plane has the
/// table too.
fn last_good_table(file: &TableFile) -> RouteTable {
    match file.load() {
        Ok(table) => {
            let table = table.unwrap_or_default();
            tracing::info!(
                generation = table.generation,
                hosts = table.routes.len(),
                "serving the saved route table"
            );
            table
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "starting without routes");
            RouteTable::default()
        }
    }
}

/// Where ordered certificates are kept.
fn acme_dir(config: &Config) -> PathBuf {
    config.state.dir.join("acme")
}

/// The certificates, if the configuration says where any are.
fn certificates(config: &Config, challenges: &Arc<Challenges>) -> anyhow::Result<Option<Arc<Certificates>>> {
    let directories = Directories {
        of_operator: config.ingress.tls.as_ref().map(|tls| tls.certificates_dir.clone()),
        ordered: config.ingress.acme.is_some().then(|| acme_dir(config)),
    };
    if let Some(ordered) = &directories.ordered {
        fs::create_dir_all(ordered).context("create the directory of ordered certificates")?;
    }
    if directories.of_operator.is_none() && directories.ordered.is_none() {
        return Ok(None);
    }
    let certificates =
        Certificates::read(directories, challenges.clone()).context("read the certificates")?;
    certificates.watch().context("watch the certificates")?;
    Ok(Some(certificates))
}

fn doors(
    config: &Config,
    mut sockets: PassedSockets,
    certificates: Option<&Arc<Certificates>>,
    challenges: Arc<Challenges>,
) -> anyhow::Result<Doors> {
    let mut open = |name, address| match address {
        Some(address) => sockets.take_or_bind(name, address).map(Some),
        None => Ok(sockets.take(name)),
    };
    let http = open("http", config.ingress.http)?;
    let https = match open("https", config.ingress.https)? {
        Some(socket) => {
            let certificates = certificates.ok_or_else(|| {
                ConfigError::invalid("ingress.tls", "is not set, and there is a socket for https")
            })?;
            Some((socket, certificates.server_config().context("set up TLS")?))
        }
        None => None,
    };
    if http.is_none() && https.is_none() {
        let message = "is not set, nor is ingress.https, and no socket was passed: there is nothing to serve";
        return Err(ConfigError::invalid("ingress.http", message).into());
    }
    let IngressConfig { proxy_protocol_from, request_bytes_max, .. } = &config.ingress;
    let balancers = Balancers(proxy_protocol_from.clone());
    let request_bytes_max = request_bytes_max.unwrap_or(u64::MAX);
    let limits = Limits { request_bytes_max, ..Limits::default() };
    Ok(Doors { http, https, challenges, balancers, limits })
}

/// One serving thread for each processor.
fn thread_count() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}
