//! The three hosts and the network between them.

use std::path::{Path, PathBuf};

use crate::{
    error::LabError,
    host::{Host, HostError},
    init::HostSpec,
    settings::{CONTROL_PLANE, HostName, PROXY, WORKER},
    state::StateDir,
    underlay::Underlay,
    uplink::NAMESERVER,
};

/// The hosts of a lab.
#[derive(Debug)]
pub struct Hosts {
    /// Runs the control plane and its database.
    pub control_plane: Host,
    /// Runs apps.
    pub worker: Host,
    /// Runs the edge, the public door.
    pub proxy: Host,
    _underlay: Underlay,
}

impl Hosts {
    pub(crate) async fn start(state: &StateDir, init: &Path) -> Result<Self, LabError> {
        let start = |name: HostName| {
            let spec = HostSpec {
                name: name.name.to_owned(),
                directory: state.host(name.name),
                cgroup: state.cgroup().join(name.name),
                nameserver: (name == WORKER).then_some(NAMESERVER),
            };
            start_host(spec, init.to_owned())
        };
        let (control_plane, worker, proxy, underlay) =
            tokio::join!(start(CONTROL_PLANE), start(WORKER), start(PROXY), Underlay::create());
        let (control_plane, worker, proxy, underlay) = (control_plane?, worker?, proxy?, underlay?);
        for (host, name) in [(&control_plane, CONTROL_PLANE), (&worker, WORKER), (&proxy, PROXY)] {
            underlay.attach(host, name.number).await?;
        }
        Ok(Self { control_plane, worker, proxy, _underlay: underlay })
    }

    /// The hosts themselves.
    pub fn all(&self) -> [&Host; 3] {
        [&self.control_plane, &self.worker, &self.proxy]
    }

    /// Ends every process of every host, and with them the network.
    pub(crate) async fn stop(self) {
        tokio::join!(self.proxy.stop(), self.worker.stop(), self.control_plane.stop());
    }
}

async fn start_host(spec: HostSpec, init: PathBuf) -> Result<Host, HostError> {
    let name = spec.name.clone();
    tokio::task::spawn_blocking(move || Host::start(spec, &init))
        .await
        .unwrap_or(Err(HostError::Ended { host: name }))
}
