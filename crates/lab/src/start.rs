//! The second half of a start: the programs, in the order in which they lean on each other.

use std::{
    io,
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    api::Api,
    busybox,
    certificates::{Authority, write_private},
    error::LabError,
    event::{Event, Step},
    host::Host,
    hosts::Hosts,
    lab::{LabOptions, Programs, Progress},
    launch::{self, Containers},
    podman,
    program::{NamedSocket, Program, ProgramSpec},
    settings::{CONTROL_PLANE, HostName, Identity, PROXY, PublicPorts, Settings, WORKER},
    state::{Running, StateDir},
};

/// The user of the platform in the lab.
pub(crate) const OWNER: &str = "lab@localhost";

/// What the programs are started with.
pub(crate) struct Start<'a> {
    pub(crate) state: &'a StateDir,
    pub(crate) hosts: &'a Hosts,
    pub(crate) options: &'a LabOptions,
}

impl Start<'_> {
    pub(crate) async fn run(&self, sockets: Sockets) -> Result<(Programs, Authority, Running), LabError> {
        let Self { state, hosts, options } = *self;
        let authority = Authority::create()?;
        authority.issue("localhost", &certificates_dir(state))?;
        let ports = sockets.ports()?;
        let settings = self.settings(ports)?;

        let database = step(&options.progress, Step::Database, async {
            let database = launch::database(state, &hosts.control_plane).await?;
            Ok((database, "a private Postgres".to_owned()))
        });
        let containers = step(&options.progress, Step::Containers, async {
            let containers = launch::containers(state, &hosts.worker).await?;
            let detail = format!("a private Podman with the image {}", busybox::IMAGE);
            Ok((containers, detail))
        });
        let ((postgres, database_url), containers) = tokio::try_join!(database, containers)?;
        let config = settings.write_control_plane(&database_url).map_err(LabError::Files)?;
        let (control_plane, api) =
            self.control_plane(config, ports.control_plane, sockets.control_plane).await?;
        let proxy_sockets = vec![named("http", sockets.http), named("https", sockets.https)];
        let (worker, edge) =
            tokio::try_join!(self.worker(&settings, &api), self.edge(&settings, &api, proxy_sockets))?;

        let running = self.running(ports, authority.pem())?;
        let Containers { podman, uplink } = containers;
        let programs = Programs { postgres, podman, control_plane, worker, edge, uplink };
        Ok((programs, authority, running))
    }

    async fn control_plane(
        &self,
        config: PathBuf,
        port: u16,
        public: TcpListener,
    ) -> Result<(Program, Api), LabError> {
        step(&self.options.progress, Step::ControlPlane, async {
            let api = Api::new(port).map_err(|error| LabError::Files(io::Error::other(error)))?;
            let host = &self.hosts.control_plane;
            let mut program = self.platform(host, CONTROL_PLANE, &config, vec![named("public", public)])?;
            launch::wait_until(&mut program, "does not answer", async || api.is_healthy().await).await?;
            let token =
                self.ask_control_plane(&["token", "create", "--email", OWNER, "--name", "lab"]).await?;
            write_private(&token_file(self.state), &token).map_err(LabError::Files)?;
            Ok(((program, api.with_token(&token)), format!("http://127.0.0.1:{port}")))
        })
        .await
    }

    async fn worker(&self, settings: &Settings, api: &Api) -> Result<Program, LabError> {
        step(&self.options.progress, Step::Worker, async {
            let host = &self.hosts.worker;
            let config = settings.write_worker(podman::SOCKET).map_err(LabError::Files)?;
            let mut program = self.platform(host, WORKER, &config, Vec::new())?;
            let connected = async || api.is_connected("workers", WORKER.name).await;
            launch::wait_until(&mut program, "is not connected to the control plane", connected).await?;
            Ok((program, format!("{} connected over the mesh", WORKER.name)))
        })
        .await
    }

    async fn edge(
        &self,
        settings: &Settings,
        api: &Api,
        sockets: Vec<NamedSocket>,
    ) -> Result<Program, LabError> {
        step(&self.options.progress, Step::Proxy, async {
            let host = &self.hosts.proxy;
            let config = settings.write_proxy(&certificates_dir(self.state)).map_err(LabError::Files)?;
            let mut program = self.platform(host, PROXY, &config, sockets)?;
            let connected = async || api.is_connected("edges", PROXY.name).await;
            launch::wait_until(&mut program, "is not connected to the control plane", connected).await?;
            Ok((program, format!("{} connected over the mesh", PROXY.name)))
        })
        .await
    }

    /// Starts the program of a host with its configuration file.
    fn platform(
        &self,
        host: &Host,
        name: HostName,
        config: &Path,
        sockets: Vec<NamedSocket>,
    ) -> Result<Program, LabError> {
        let spec = ProgramSpec {
            name: name.program,
            executable: self.options.bin_dir.join(name.program),
            arguments: vec!["--config".to_owned(), config.to_string_lossy().into_owned()],
            environment: Vec::new(),
            user: None,
            sockets,
            log: self.state.log(name.program),
        };
        Ok(Program::start(host, spec)?)
    }

    async fn ask_control_plane(&self, arguments: &[&str]) -> Result<String, LabError> {
        ask_control_plane(self.state, self.hosts, &self.options.bin_dir, arguments).await
    }

    fn running(&self, ports: PublicPorts, authority_pem: String) -> Result<Running, LabError> {
        let authority_file = self.state.path().join("authority.crt");
        std::fs::write(&authority_file, authority_pem).map_err(LabError::Files)?;
        let running = Running {
            pid: nix::unistd::getpid().as_raw(),
            hosts: self.hosts.all().map(|host| (host.name().to_owned(), host.init_pid().as_raw())).into(),
            dashboard_url: format!("http://127.0.0.1:{}", ports.control_plane),
            http_port: ports.http,
            https_port: ports.https,
            authority_file,
            token_file: token_file(self.state),
        };
        self.state.announce(&running)?;
        Ok(running)
    }

    fn settings(&self, ports: PublicPorts) -> Result<Settings, LabError> {
        let identity = |host| Identity::create(host, &self.state.host(host.name)).map_err(LabError::Files);
        Ok(Settings {
            control_plane: identity(CONTROL_PLANE)?,
            worker: identity(WORKER)?,
            proxy: identity(PROXY)?,
            ports,
        })
    }
}

/// The lab's public sockets.
pub(crate) struct Sockets {
    control_plane: TcpListener,
    http: TcpListener,
    https: TcpListener,
}

impl Sockets {
    pub(crate) fn bind(options: &LabOptions) -> Result<Self, LabError> {
        Ok(Self {
            control_plane: options.control_plane_port.bind()?,
            http: options.http_port.bind()?,
            https: options.https_port.bind()?,
        })
    }

    fn ports(&self) -> Result<PublicPorts, LabError> {
        let port =
            |socket: &TcpListener| socket.local_addr().map(|address| address.port()).map_err(LabError::Files);
        Ok(PublicPorts {
            control_plane: port(&self.control_plane)?,
            http: port(&self.http)?,
            https: port(&self.https)?,
        })
    }
}

fn named(name: &'static str, socket: TcpListener) -> NamedSocket {
    NamedSocket { name, socket: OwnedFd::from(socket) }
}

/// Reports the beginning and the end of a step.
pub(crate) async fn step<T>(
    progress: &Progress,
    step: Step,
    work: impl Future<Output = Result<(T, String), LabError>>,
) -> Result<T, LabError> {
    progress(Event::Begun { step });
    let begun = Instant::now();
    let (done, detail) = work.await?;
    progress(Event::Done { step, took_ms: millis(begun), detail });
    Ok(done)
}

/// Runs one of the control plane's own commands in its host and answers what it prints.
pub(crate) async fn ask_control_plane(
    state: &StateDir,
    hosts: &Hosts,
    bin_dir: &Path,
    arguments: &[&str],
) -> Result<String, LabError> {
    let config = state.host(CONTROL_PLANE.name).join("config.toml");
    let mut command = tokio::process::Command::new(bin_dir.join(CONTROL_PLANE.program));
    command.arg("--config").arg(config).args(arguments).current_dir("/");
    let output = hosts.control_plane.output(command).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let lines = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    let what = format!("refused the command {}", arguments[0]);
    Err(LabError::NotReady {
        name: CONTROL_PLANE.program,
        what,
        log: state.log(CONTROL_PLANE.program),
        lines,
    })
}

fn token_file(state: &StateDir) -> PathBuf {
    state.path().join("api.token")
}

pub(crate) fn certificates_dir(state: &StateDir) -> PathBuf {
    state.host(PROXY.name).join("certificates")
}

pub(crate) fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
