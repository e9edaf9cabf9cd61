//! Tells the control plane what the instances and the host use, every few seconds.
//!
//! Invariant: what is told costs this host little, and nothing waits for a control plane that is away.

use crate::{
    host::Host,
    instances::Running,
    usage::{Reading, UsageReader},
    written::{self, Written},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use wisehosting_containers::Engine;
use wisehosting_node::usage;
use wisehosting_protocol::payload::{AppStats, HostStats};

/// How often what is used is told.
pub const TELL_EVERY: Duration = Duration::from_secs(10);
/// What the instances and the host use.
pub struct Stats<E> {
    host: Arc<Host<E>>,
    running: watch::Receiver<Option<Vec<Running>>>,
    /// The mesh's interface, if this program knows of it.
    mesh: Option<String>,
    reader: UsageReader,
    written: watch::Sender<Written>,
}

impl<E: Engine> Stats<E> {
    /// Of the instances that run on a host, and of that.
    #[must_use]
    pub fn new(
        host: Arc<Host<E>>,
        running: watch::Receiver<Option<Vec<Running>>>,
        mesh: Option<String>,
    ) -> Self {
        Self { host, running, mesh, reader: UsageReader::default(), written: watch::Sender::default() }
    }

    /// What containers have written to their disks, as of the last count.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<Written> {
        self.written.subscribe()
    }

    /// Tells for ever.
    pub async fn tell(mut self, every: Duration) {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (host, running, count) = (self.host.clone(), self.running.clone(), self.written.clone());
        let counting = written::count(&host, running, &count);
        let telling = async {
            loop {
                interval.tick().await;
                self.tell_once().await;
            }
        };
        tokio::join!(counting, telling);
    }

    async fn tell_once(&mut self) {
        let observed_at_ms = self.host.clock.now_ms();
        let running = self.running.borrow().clone().unwrap_or_default();
        let written = self.written.borrow().clone();
        let Reading { instances, links } = self.reader.read(&running, &written).await;
        let mesh = links.iter().find(|link| Some(&link.name) == self.mesh.as_ref());
        // An engine that is away is asked again the next time.
        let storage = self.host.engine.storage().await.ok();
        let disk = storage.as_ref().map(|storage| usage::disk(&storage.dir)).unwrap_or_default();
        let host = HostStats {
            disk_bytes: disk.bytes,
            disk_bytes_used: disk.bytes_used,
            disk_bytes_wanted: self.host.settings.space.free_min_bytes,
            disk_limits_held: storage.is_some_and(|storage| storage.holds_disk_limits),
            mesh_received_bytes: mesh.map_or(0, |link| link.received_bytes),
            mesh_sent_bytes: mesh.map_or(0, |link| link.sent_bytes),
        };
        self.host.outbox.offer(AppStats { observed_at_ms, host, instances });
    }
}
