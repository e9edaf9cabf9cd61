//! What instances use, read from the kernel: control groups, and the counters of their links.
//!
//! Where a thing is to be read is looked for once for each start of a container. After that a pass costs a few small files for
//! each and one question over netlink for all. Invariant: an instance whose control group is gone is left out; all else that
//! cannot be read is 0, and no reason to leave out the rest.

use crate::instances::Running;
use std::{
    collections::HashMap,
    error::Error,
    path::{Path, PathBuf},
};
use tokio::task::spawn_blocking;
use wisehosting_containers::{Cgroups, ContainerId};
use wisehosting_domain::usage::Usage;
use wisehosting_network::{Link, Netlink, NetworkError, NetworkNamespace};
use wisehosting_protocol::payload::InstanceStats;

/// Reads what instances use, and remembers where.
#[derive(Debug, Default)]
pub struct UsageReader {
    cgroups: Option<Cgroups>,
    netlink: Option<Netlink>,
    /// The host's end of each container's link.
    ends: HashMap<ContainerId, End>,
    /// Whether the links could not be read the last time.
    links_unreadable: bool,
}

#[derive(Debug)]
struct End {
    /// A container that is started again gets another one, and another link with it.
    namespace: PathBuf,
    /// Number of the link in the host.
    index: u32,
}

/// One pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The instances that run.
    pub instances: Vec<InstanceStats>,
    /// The links of the host.
    pub links: Vec<Link>,
}

impl UsageReader {
    /// What these instances use now; `written` is what is known of their disks.
    pub async fn read(&mut self, running: &[Running], written: &HashMap<ContainerId, u64>) -> Reading {
        let links = self.links().await;
        self.find_ends(running, &links).await;
        let ids: Vec<ContainerId> = running.iter().map(|running| running.container.clone()).collect();
        let cgroups = self.cgroups.take();
        let read = spawn_blocking(move || {
            let mut cgroups = cgroups.unwrap_or_else(Cgroups::of_this_host);
            let usage = cgroups.read(&ids);
            (cgroups, usage)
        });
        let Ok((cgroups, usage)) = read.await else { return Reading::default() };
        self.cgroups = Some(cgroups);
        let by_index: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
        let stats = |running: &Running| {
            let used = usage.get(&running.container)?;
            let link = self.ends.get(&running.container).and_then(|end| by_index.get(&end.index));
            let usage = Usage {
                cpu_us: used.cpu_us,
                memory_bytes: used.memory_bytes,
                processes: used.processes,
                // What the container sends, the host's end receives.
                received_bytes: link.map_or(0, |link| link.sent_bytes),
                sent_bytes: link.map_or(0, |link| link.received_bytes),
                disk_bytes: written.get(&running.container).copied(),
                disk_read_bytes: used.disk_read_bytes,
                disk_written_bytes: used.disk_written_bytes,
            };
            Some(InstanceStats { instance_id: running.instance, usage })
        };
        let instances = running.iter().filter_map(stats).collect();
        Reading { instances, links }
    }

    /// The links of the host; none if they cannot be read.
    async fn links(&mut self) -> Vec<Link> {
        let links = match &self.netlink {
            Some(netlink) => netlink.links().await,
            None => match Netlink::here() {
                Ok(netlink) => self.netlink.insert(netlink).links().await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = &links {
            if !self.links_unreadable {
                tracing::warn!(error = error as &dyn Error, "the traffic of instances cannot be read");
            }
            self.netlink = None;
        }
        self.links_unreadable = links.is_err();
        links.unwrap_or_default()
    }

    async fn find_ends(&mut self, running: &[Running], links: &[Link]) {
        let namespaces: HashMap<&ContainerId, &PathBuf> = running
            .iter()
            .filter_map(|running| Some((&running.container, running.network_namespace.as_ref()?)))
            .collect();
        self.ends.retain(|id, end| namespaces.get(id) == Some(&&end.namespace));
        for (id, namespace) in namespaces {
            if self.ends.contains_key(id) {
                continue;
            }
            match host_end(namespace, links).await {
                Ok(Some(index)) => {
                    self.ends.insert(id.clone(), End { namespace: namespace.clone(), index });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(container.id = %id, error = &error as &dyn Error, "the link of a container cannot be found");
                }
            }
        }
    }
}

/// The number, in the host, of the link whose other end is in this namespace.
async fn host_end(namespace: &Path, links: &[Link]) -> Result<Option<u32>, NetworkError> {
    let inside = Netlink::inside(&NetworkNamespace::at_path(namespace)?)?.links().await?;
    let is_host_end = |link: &&Link| inside.iter().any(|end| end.is_pair_with(link));
    Ok(links.iter().find(is_host_end).map(|link| link.index))
}
