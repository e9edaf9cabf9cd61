//! How what the platform leans on is started in the hosts, and when a program counts as started.

use std::{path::PathBuf, time::Duration};

use crate::{
    error::LabError,
    host::Host,
    podman,
    postgres::Cluster,
    program::{Program, ProgramSpec},
    state::StateDir,
    uplink::Uplink,
};

/// How long a program may take until it does its work.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Where Postgres keeps its data and its socket, in its host.
const POSTGRES_DATA: &str = "/run/postgresql-data";
const POSTGRES_SOCKET: &str = "/run/postgresql";

/// Makes and starts the database. Answers the server and its URL.
pub(crate) async fn database(state: &StateDir, host: &Host) -> Result<(Program, String), LabError> {
    let cluster = Cluster::prepare(&host.path("/"), POSTGRES_DATA.as_ref(), POSTGRES_SOCKET.as_ref())?;

    let spec = |name, (executable, arguments): (PathBuf, Vec<String>)| ProgramSpec {
        name,
        executable,
        arguments,
        environment: vec![("TZ".to_owned(), "UTC".to_owned())],
        user: Some(cluster.user()),
        sockets: Vec::new(),
        log: state.log(name),
    };
    to_end(Program::start(host, spec("initdb", cluster.initdb()))?).await?;
    let mut server = Program::start(host, spec("postgres", cluster.server()))?;
    wait_until(&mut server, "takes no connections", async || cluster.is_ready()).await?;
    to_end(Program::start(host, spec("createdb", cluster.createdb()))?).await?;
    Ok((server, cluster.url()))
}

/// The worker's engine, its way out and its base image.
#[derive(Debug)]
pub(crate) struct Containers {
    pub(crate) podman: Program,
    pub(crate) uplink: Uplink,
}

/// Starts what the worker needs for containers.
pub(crate) async fn containers(state: &StateDir, host: &Host) -> Result<Containers, LabError> {
    let uplink = Uplink::attach(host, &state.log("slirp4netns")).await?;
    let podman = podman::start(host, state.log("podman")).await?;
    podman::import_busybox(host).await?;
    Ok(Containers { podman, uplink })
}

/// Waits until `is_done`; a program that ends before that, or takes too long, is an error with the end of its log.
pub(crate) async fn wait_until(
    program: &mut Program,
    complaint: &str,
    mut is_done: impl AsyncFnMut() -> bool,
) -> Result<(), LabError> {
    let deadline = tokio::time::Instant::now() + START_TIMEOUT;
    while !is_done().await {
        if let Some(status) = program.exited() {
            return Err(not_ready(program, format!("ended at once ({status})")));
        }
        if tokio::time::Instant::now() > deadline {
            return Err(not_ready(program, format!("{complaint} after {} s", START_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
    Ok(())
}

async fn to_end(mut program: Program) -> Result<(), LabError> {
    match program.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(not_ready(&program, format!("failed ({status})"))),
        Err(error) => Err(not_ready(&program, format!("was lost ({error})"))),
    }
}

fn not_ready(program: &Program, what: String) -> LabError {
    LabError::NotReady {
        name: program.name(),
        what,
        log: program.log().to_owned(),
        lines: program.last_lines(12),
    }
}
