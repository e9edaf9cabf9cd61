//! The route table in force: how requests find it, how a new one takes its place, when an old one is free of requests.
//!
//! A request holds the [`ServingTable`] that it began on until its last byte, upgraded connections too, so the end of
//! the last request of a table is the drop of its last reference: [`Generations`] is told then, and nobody polls.

pub mod change;
pub mod file;
pub mod reachability;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;
use wisehosting_domain::routes::{RouteTable, Upstream};

/// A table that requests are served by.
#[derive(Debug)]
pub struct ServingTable {
    table: RouteTable,
    hosts: HashMap<Box<str>, Host>,
    _alive: Alive,
}

/// What a host name leads to.
#[derive(Debug)]
pub struct Host {
    upstreams: Vec<Upstream>,
    turn: AtomicUsize,
}

impl ServingTable {
    /// A table that counts as alive in `generations` until its last reference is dropped.
    #[must_use]
    pub fn new(table: RouteTable, generations: &Arc<Generations>) -> Self {
        let host =
            |upstreams: &Vec<Upstream>| Host { upstreams: upstreams.clone(), turn: AtomicUsize::new(0) };
        let hosts =
            table.routes.iter().map(|(name, route)| (name.as_str().into(), host(&route.upstreams))).collect();
        let alive = generations.begin(table.generation);
        Self { table, hosts, _alive: alive }
    }

    /// The routes as data.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// What a host name in lower case leads to.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// Whether any table was ever received.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.table.generation > 0
    }
}

impl Host {
    /// All upstreams, beginning with the one whose turn it is.
    pub fn in_turn(&self) -> impl Iterator<Item = &Upstream> {
        let first = match self.upstreams.len() {
            0 | 1 => 0,
            len => self.turn.fetch_add(1, Ordering::Relaxed) % len,
        };
        let (before, from) = self.upstreams.split_at(first);
        from.iter().chain(before)
    }
}

/// The tables that requests still hold, oldest first.
#[derive(Debug)]
pub struct Generations {
    alive: Mutex<Living>,
    oldest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Living {
    /// Generation by order of installation, which is what "older" means: a restored control plane may begin anew at a
    /// lower generation.
    tables: BTreeMap<u64, u64>,
    next: u64,
}

impl Generations {
    /// None alive.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { alive: Mutex::default(), oldest: watch::Sender::new(0) })
    }

    /// The generation of the oldest table that requests hold or may get, now and whenever it changes.
    #[must_use]
    pub fn oldest(&self) -> watch::Receiver<u64> {
        self.oldest.subscribe()
    }

    fn begin(self: &Arc<Self>, generation: u64) -> Alive {
        let order = self.change(|living| {
            let order = living.next;
            living.next += 1;
            living.tables.insert(order, generation);
            order
        });
        Alive { order, generations: self.clone() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Living) -> T) -> T {
        let mut living = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut living);
        if let Some((_, &generation)) = living.tables.first_key_value() {
            self.oldest.send_if_modified(|oldest| std::mem::replace(oldest, generation) != generation);
        }
        result
    }
}

/// Keeps a table counted as alive.
#[derive(Debug)]
struct Alive {
    order: u64,
    generations: Arc<Generations>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.generations.change(|living| living.tables.remove(&self.order));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_table_is_reported_when_its_last_request_ends() {
        let generations = Generations::new();
        let table = |generation| {
            Arc::new(ServingTable::new(RouteTable { generation, ..RouteTable::default() }, &generations))
        };
        let mut oldest = generations.oldest();
        let first = table(5);
        let request = first.clone();
        let second = table(6);
        assert_eq!(*oldest.borrow_and_update(), 5);
        drop(first);
        assert!(!oldest.has_changed().unwrap(), "a request still holds it");
        let restored = table(2);
        drop(second);
        drop(request);
        assert_eq!(*oldest.borrow_and_update(), 2, "the order is that of installation");
        drop(restored);
        assert!(!oldest.has_changed().unwrap(), "nothing is left to report");
    }
}
