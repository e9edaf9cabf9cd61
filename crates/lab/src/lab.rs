//! The lab as a whole: start, handles, stop.
//!
//! Invariants: a start that fails leaves only the logs; a stop ends things in the opposite order of their start, so
//! that nobody loses what it leans on; what a kill -9 leaves is removed by the next start.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use wisehosting_network::Netlink;

use crate::{
    certificates::Authority,
    error::LabError,
    event::{Event, Step},
    hosts::Hosts,
    ports::Port,
    program::Program,
    requirements,
    settings::MESH_INTERFACE,
    start::{OWNER, Sockets, Start, ask_control_plane, certificates_dir, millis, step},
    state::{Cleaned, Running, StateDir},
    uplink::Uplink,
};

/// Receives what happens while the lab starts.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// How a lab is started.
#[derive(Clone)]
pub struct LabOptions {
    /// The lab's folder; one lab runs in a folder at a time.
    pub state_dir: PathBuf,
    /// Where the platform's three programs are.
    pub bin_dir: PathBuf,
    /// A program that runs [`crate::init::run`] as its subcommand `lab-init`.
    pub init: PathBuf,
    /// Port of the dashboard and the REST API.
    pub control_plane_port: Port,
    /// Port of the proxy without TLS.
    pub http_port: Port,
    /// Port of the proxy with TLS.
    pub https_port: Port,
    /// Receives what happens.
    pub progress: Progress,
}

/// The programs of a lab.
#[derive(Debug)]
pub struct Programs {
    /// The database.
    pub postgres: Program,
    /// The worker's container engine.
    pub podman: Program,
    /// `wisehosting-control-plane`.
    pub control_plane: Program,
    /// `wisehosting-worker`.
    pub worker: Program,
    /// `wisehosting-edge`.
    pub edge: Program,
    pub(crate) uplink: Uplink,
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    /// Its hosts.
    pub hosts: Hosts,
    /// Its programs.
    pub programs: Programs,
    state: StateDir,
    authority: Authority,
    running: Running,
    bin_dir: PathBuf,
}

impl Lab {
    /// Starts everything, and returns when the worker and the proxy are connected.
    pub async fn start(options: LabOptions) -> Result<Self, LabError> {
        requirements::check(&options.bin_dir)?;
        let state = StateDir::claim(&options.state_dir)?;
        let sockets = Sockets::bind(&options)?;
        clean_up(&state, &options.progress)?;
        let hosts = step(&options.progress, Step::Hosts, async {
            let hosts = Hosts::start(&state, &options.init).await?;
            Ok((hosts, "three network namespaces, joined by an underlay of their own".to_owned()))
        });
        let hosts = match hosts.await {
            Ok(hosts) => hosts,
            Err(error) => {
                let _ = state.clean(true);
                return Err(error);
            }
        };
        let started = Start { state: &state, hosts: &hosts, options: &options }.run(sockets).await;
        match started {
            Ok((programs, authority, running)) => {
                Ok(Self { hosts, programs, state, authority, running, bin_dir: options.bin_dir })
            }
            Err(error) => {
                hosts.stop().await;
                // The reason why it did not start matters more than a directory that stays.
                let _ = state.clean(true);
                Err(error)
            }
        }
    }

    /// What other commands are told about the lab.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The lab's folder.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// A link that signs the lab's user in to the dashboard, once.
    pub async fn login_link(&self) -> Result<String, LabError> {
        ask_control_plane(&self.state, &self.hosts, &self.bin_dir, &["login-link", "--email", OWNER]).await
    }

    /// What carries the mesh: `kernel` or `userspace`.
    pub async fn mesh_backend(&self) -> Result<&'static str, LabError> {
        let link = Netlink::inside(self.hosts.proxy.network())?.link(MESH_INTERFACE).await?;
        let in_kernel = link.is_some_and(|link| link.kind.as_deref() == Some("wireguard"));
        Ok(if in_kernel { "kernel" } else { "userspace" })
    }

    /// Gives a host name below `localhost` a certificate that the proxy serves.
    pub fn issue_certificate(&self, name: &str) -> Result<(), LabError> {
        Ok(self.authority.issue(name, &certificates_dir(&self.state))?)
    }

    /// Ends everything and removes everything. Answers what was removed.
    pub async fn stop(self) -> Result<Cleaned, LabError> {
        self.end(false).await
    }

    /// The same after something went wrong: the programs' logs stay in the lab's folder until its next start.
    pub async fn stop_keeping_logs(self) -> Result<Cleaned, LabError> {
        self.end(true).await
    }

    async fn end(self, keep_logs: bool) -> Result<Cleaned, LabError> {
        let Self { hosts, mut programs, state, .. } = self;
        programs.stop().await;
        drop(programs);
        hosts.stop().await;
        let cleaned = state.clean(keep_logs)?;
        state.remove()?;
        Ok(cleaned)
    }
}

impl Programs {
    /// The first program that ended by itself, if one did.
    pub fn ended(&mut self) -> Option<&Program> {
        let programs =
            [&mut self.edge, &mut self.worker, &mut self.control_plane, &mut self.podman, &mut self.postgres];
        programs.into_iter().find_map(|program| program.exited().is_some().then_some(&*program))
    }

    /// The hosts' end would kill whatever does not end by itself here.
    async fn stop(&mut self) {
        let programs =
            [&mut self.edge, &mut self.worker, &mut self.control_plane, &mut self.podman, &mut self.postgres];
        for program in programs {
            let _ = program.stop().await;
        }
        self.uplink.stop().await;
    }
}

fn clean_up(state: &StateDir, progress: &Progress) -> Result<(), LabError> {
    let begun = Instant::now();
    let cleaned = state.clean(false)?;
    state.lay_out()?;
    if !cleaned.is_nothing() {
        let detail = "removed what a lab that was killed had left".to_owned();
        progress(Event::Done { step: Step::CleanUp, took_ms: millis(begun), detail });
    }
    Ok(())
}
