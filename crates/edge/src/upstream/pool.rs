//! The connections of one thread that wait for their next request, by instance.
//!
//! They belong to an instance, not to an address: what listens at an address later never gets a request for the
//! instance that was there. Instances that are not routed have no connections here, so that they see at once that
//! nobody needs them.

use super::Connection;
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::time::Instant;
use wisehosting_domain::{id::InstanceId, routes::RouteTable};

/// Idle connections that a thread keeps to one instance.
const IDLE_MAX: usize = 256;
/// How long one is kept.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// Idle connections.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<InstanceId, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A connection that was idle for at most `idle_max` and is still open; the youngest one.
    #[must_use]
    pub fn take(&self, instance: InstanceId, idle_max: Duration) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&instance)?;
        while let Some(Idle { connection, since }) = connections.pop() {
            if since.elapsed() > idle_max {
                connections.push(Idle { connection, since });
                return None;
            }
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, if the instance is routed.
    pub fn put(&self, instance: InstanceId, connection: Connection) {
        if let Some(connections) = self.idle.borrow_mut().get_mut(&instance)
            && connections.len() < IDLE_MAX
        {
            connections.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Keeps connections to the instances of this table only.
    pub fn keep_only(&self, table: &RouteTable) {
        let routed: HashSet<_> = table
            .routes
            .values()
            .flat_map(|route| &route.upstreams)
            .map(|upstream| upstream.instance_id)
            .collect();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|instance, _| routed.contains(instance));
        for instance in routed {
            idle.entry(instance).or_default();
        }
    }

    /// Drops what is idle for too long or was closed by its instance.
    pub fn sweep(&self) {
        for connections in self.idle.borrow_mut().values_mut() {
            connections.retain(|idle| idle.since.elapsed() < IDLE_TIME_MAX && idle.connection.is_quiet());
            connections.shrink_to_fit();
        }
    }
}
