//! What an edge's agent reaches besides the control plane: instances, visitors, the disk.
//!
//! Invariant: the agent waits for nothing else but its timers and the control plane, so in a world where this is simulated it
//! does the same things each time.

use crate::{
    door::Door,
    table::{
        ServingTable,
        file::{FileError, TableFile},
        reachability,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};
use wisehosting_domain::{
    id::InstanceId,
    routes::{RouteTable, Upstream},
};

/// What an edge's agent reaches besides the control plane.
pub trait Outside: Send + Sync + 'static {
    /// Those instances that accept no connection from here, and why.
    fn unreachable(
        &self,
        upstreams: BTreeSet<Upstream>,
    ) -> impl Future<Output = BTreeMap<InstanceId, String>> + Send;

    /// Serves visitors by this table from now on. After an error they are served by the one before.
    fn install(&self, table: &Arc<ServingTable>) -> impl Future<Output = io::Result<()>> + Send;

    /// Takes a table that another one has replaced, and drops it when the last of its requests has ended.
    fn retire(&self, table: Arc<ServingTable>);

    /// Saves what is served after a restart.
    fn save(&self, table: RouteTable) -> impl Future<Output = Result<(), FileError>> + Send;
}

/// This machine.
#[derive(Debug)]
pub struct Machine {
    /// What serves visitors.
    pub door: Door,
    /// The last good table.
    pub file: TableFile,
}

impl Outside for Machine {
    async fn unreachable(&self, upstreams: BTreeSet<Upstream>) -> BTreeMap<InstanceId, String> {
        reachability::unreachable(upstreams).await
    }

    async fn install(&self, table: &Arc<ServingTable>) -> io::Result<()> {
        self.door.install(table).await
    }

    fn retire(&self, table: Arc<ServingTable>) {
        self.door.retire(table);
    }

    async fn save(&self, table: RouteTable) -> Result<(), FileError> {
        self.file.save_elsewhere(table).await
    }
}
