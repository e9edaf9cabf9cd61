//! Tells the control plane what the instances and the host use, every few seconds.
//!
//! Invariant: what is told costs this host little: files are counted so seldom that it takes a twentieth of a processor at
//! most, however long they are; and nothing waits for a control plane that is away.

use crate::{
    host::{Host, LABEL_INSTANCE},
    instances::Running,
    usage::{Reading, UsageReader},
};
use std::{collections::HashMap, error::Error, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use wisehosting_containers::{ContainerId, Engine};
use wisehosting_node::usage;
use wisehosting_protocol::payload::{AppStats, HostStats};

/// How often what is used is told.
pub const TELL_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two counts of what containers have written.
const COUNT_PAUSE_MIN: Duration = Duration::from_secs(60);
/// And as many times as long as the count took.
const COUNT_PAUSE_FACTOR: u32 = 20;

/// What the instances and the host use.
pub struct Stats<E> {
    host: Arc<Host<E>>,
    running: watch::Receiver<Vec<Running>>,
    /// The mesh's interface, if this program knows of it.
    mesh: Option<String>,
    reader: UsageReader,
    /// Where the engine keeps images and containers, once it has said so.
    storage: Option<PathBuf>,
}

impl<E: Engine> Stats<E> {
    /// Of the instances that run on a host, and of that.
    #[must_use]
    pub fn new(host: Arc<Host<E>>, running: watch::Receiver<Vec<Running>>, mesh: Option<String>) -> Self {
        Self { host, running, mesh, reader: UsageReader::default(), storage: None }
    }

    /// Tells for ever.
    pub async fn tell(mut self, every: Duration) {
        let (count, written) = watch::channel(HashMap::new());
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let counting = count_written(self.host.clone(), count);
        let telling = async {
            loop {
                interval.tick().await;
                self.tell_once(&written).await;
            }
        };
        tokio::join!(counting, telling);
    }

    async fn tell_once(&mut self, written: &watch::Receiver<HashMap<ContainerId, u64>>) {
        let observed_at_ms = self.host.clock.now_ms();
        let (running, written) = (self.running.borrow().clone(), written.borrow().clone());
        let Reading { instances, links } = self.reader.read(&running, &written).await;
        let mesh = links.iter().find(|link| Some(&link.name) == self.mesh.as_ref());
        let disk = self.disk().await;
        let host = HostStats {
            disk_bytes: disk.bytes,
            disk_bytes_used: disk.bytes_used,
            mesh_received_bytes: mesh.map_or(0, |link| link.received_bytes),
            mesh_sent_bytes: mesh.map_or(0, |link| link.sent_bytes),
        };
        self.host.outbox.offer(AppStats { observed_at_ms, host, instances });
    }

    async fn disk(&mut self) -> usage::Disk {
        if self.storage.is_none() {
            // An engine that is away is asked again the next time.
            self.storage = self.host.engine.storage().await.ok().map(|storage| storage.dir);
        }
        self.storage.as_deref().map(usage::disk).unwrap_or_default()
    }
}

/// Counts what containers have written, for ever.
async fn count_written<E: Engine>(host: Arc<Host<E>>, count: watch::Sender<HashMap<ContainerId, u64>>) {
    loop {
        let began = Instant::now();
        match host.engine.written_bytes(LABEL_INSTANCE).await {
            Ok(written) => drop(count.send_replace(written)),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn Error,
                    "what containers have written cannot be counted"
                );
            }
        }
        sleep(COUNT_PAUSE_MIN.max(began.elapsed() * COUNT_PAUSE_FACTOR)).await;
    }
}
