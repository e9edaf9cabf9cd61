//! Public ports that lead to addresses in the mesh: an nftables table of our own, over netlink.
//!
//! Invariants: a change is one step, so no connection meets half of it, and touches no forward that stays; no table but
//! ours is touched; when `reconcile` has returned without an error, the difference is empty; with nothing to forward, nothing of
//! ours is left, and no connection goes on by a forward that is gone.
//!
//! A host that forwards routes. So that this opens the way for nothing else, the table drops what would go from outside
//! into the mesh, or the other way, and is no forward's. Routing is turned on link by link, and off again on those links
//! alone, unless another program has turned it on for the whole host meanwhile.

mod attribute;
mod connection;
mod relay;
mod rule;
mod socket;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddrV4;

pub use relay::{end_relay, relay, relays};

use crate::{InterfaceName, Link, Netlink, NetworkError};
use socket::FilterSocket;

/// Rules of the table, which are the same for any forwards.
const RULES: usize = 12;
const LOOPBACK: &str = "lo";
/// The kernel's word on whether the whole host routes IPv4.
const ROUTES_EVERYWHERE: &str = "/proc/sys/net/ipv4/ip_forward";
/// One round sets, one finds it right; a link may have come in between.
const MAX_ROUNDS: usize = 3;

/// What a forward carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// Its number in an IP header.
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// All forwards of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwards {
    /// The interface behind which all targets are.
    pub mesh: InterfaceName,
    /// From a protocol and a port of this host's addresses to where it leads.
    pub targets: BTreeMap<(Protocol, u16), SocketAddrV4>,
}

/// The table as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedForwards {
    /// What is forwarded.
    pub targets: BTreeMap<(Protocol, u16), SocketAddrV4>,
    /// Links on which routing was turned on for it.
    pub routed: BTreeSet<String>,
    /// How many rules there are.
    pub rules: usize,
}

/// Who routes IPv4.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    /// Whether the whole host is meant to.
    pub everywhere: bool,
    /// Each link, without the loopback, and whether it does.
    pub links: BTreeMap<String, bool>,
}

/// What is another one as soon as the table, or who routes, may be. Costs little to read, however many forwards there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardsMark {
    /// The kernel counts changes of the packet filter, by whomever.
    generation: u32,
    routing: Routing,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardsOp {
    /// Put the whole table in its place, with these links in it as those that we made route.
    ReplaceTable(BTreeSet<String>),
    /// Take out of the table what is not desired, and put in what is missing; the same for the links.
    UpdateTable(BTreeSet<String>),
    /// Remove the table.
    RemoveTable,
    /// Let a link route, or let it no longer.
    SetRouting(String, bool),
}

/// The changes that turn what is into `desired`. Nothing ever routes without the table. Pure.
#[must_use]
pub fn diff_forwards(
    table: Option<&ObservedForwards>,
    routing: &Routing,
    desired: &Forwards,
) -> Vec<ForwardsOp> {
    let ours =
        || table.iter().flat_map(|table| &table.routed).filter(|link| routing.links.contains_key(*link));
    if desired.targets.is_empty() {
        let stop = |link: &String| ForwardsOp::SetRouting(link.clone(), false);
        let routes = |link: &&String| routing.links.get(*link) == Some(&true);
        let stopped = ours().filter(|_| !routing.everywhere).filter(routes).map(stop);
        return stopped.chain(table.map(|_| ForwardsOp::RemoveTable)).collect();
    }
    let idle: BTreeSet<&String> =
        routing.links.iter().filter(|(_, routes)| !**routes).map(|(link, _)| link).collect();
    let routed: BTreeSet<String> = ours().chain(idle.iter().copied()).cloned().collect();
    let start = idle.into_iter().map(|link| ForwardsOp::SetRouting(link.clone(), true));
    let change = match table {
        Some(table) if table.rules == RULES => {
            let right = table.targets == desired.targets && table.routed == routed;
            (!right).then_some(ForwardsOp::UpdateTable(routed))
        }
        _ => Some(ForwardsOp::ReplaceTable(routed)),
    };
    change.into_iter().chain(start).collect()
}

/// The table in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct ForwardTable {
    netlink: Netlink,
    socket: FilterSocket,
}

impl ForwardTable {
    /// Opens what is needed to change it; changes nothing. Must be called within a tokio runtime, all of whose threads
    /// are in that namespace.
    ///
    /// # Errors
    /// `NotPermitted`.
    pub fn open() -> Result<Self, NetworkError> {
        let socket = FilterSocket::open().map_err(|error| NetworkError::from_io("open", SUBJECT, error))?;
        Ok(Self { netlink: Netlink::here()?, socket })
    }

    /// Reads the table; none if there is none.
    ///
    /// # Errors
    /// Any refusal of the kernel.
    pub fn observe(&self) -> Result<Option<ObservedForwards>, NetworkError> {
        table::observe(&self.socket).map_err(|error| NetworkError::from_io("read", SUBJECT, error))
    }

    /// What tells, by being the same later, that nobody has changed anything.
    ///
    /// # Errors
    /// Any refusal of the kernel.
    pub async fn mark(&self) -> Result<ForwardsMark, NetworkError> {
        let generation = table::generation(&self.socket);
        let generation = generation.map_err(|error| NetworkError::from_io("read", SUBJECT, error))?;
        Ok(ForwardsMark { generation, routing: self.routing().await? })
    }

    /// Puts the forwards in force, whatever the table looks like, since a rule may name what is no more.
    ///
    /// # Errors
    /// As [`reconcile`](Self::reconcile).
    pub async fn replace(&self, desired: &Forwards) -> Result<(), NetworkError> {
        if !desired.targets.is_empty() {
            let table = self.observe()?;
            let routed = table.iter().flat_map(|table| table.routed.clone()).collect();
            self.apply(&ForwardsOp::ReplaceTable(routed), table.as_ref(), desired).await?;
        }
        self.reconcile(desired).await.map(drop)
    }

    /// Makes the table and the routing be as desired, and says what had to be done.
    ///
    /// # Errors
    /// `NotPermitted`, `NotSupported` by a kernel without nftables, `Unsettled` if another program changes it back.
    pub async fn reconcile(&self, desired: &Forwards) -> Result<Vec<ForwardsOp>, NetworkError> {
        let mut done = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let table = self.observe()?;
            let ops = diff_forwards(table.as_ref(), &self.routing().await?, desired);
            if ops.is_empty() {
                return Ok(done);
            }
            for op in &ops {
                self.apply(op, table.as_ref(), desired).await?;
            }
            done.extend(ops);
        }
        Err(NetworkError::Unsettled { interface: SUBJECT.to_owned() })
    }

    async fn routing(&self) -> Result<Routing, NetworkError> {
        let everywhere = fs::read_to_string(ROUTES_EVERYWHERE)
            .map_err(|error| NetworkError::from_io("read", ROUTES_EVERYWHERE, error))?;
        let links = self.netlink.links().await?;
        let routes = |link: Link| Some((link.name, link.routes_ipv4?));
        let links = links.into_iter().filter(|link| link.name != LOOPBACK).filter_map(routes).collect();
        Ok(Routing { everywhere: everywhere.trim() == "1", links })
    }

    /// What is asked of the packet filter takes it some milliseconds; these calls block for as long.
    async fn apply(
        &self,
        op: &ForwardsOp,
        table: Option<&ObservedForwards>,
        desired: &Forwards,
    ) -> Result<(), NetworkError> {
        let nothing = ObservedForwards::default();
        let table = table.unwrap_or(&nothing);
        let changed = match op {
            ForwardsOp::UpdateTable(routed) => {
                table::update(&self.socket, table, desired, routed).map_err(|error| ("change", error))
            }
            ForwardsOp::ReplaceTable(routed) => {
                table::replace(&self.socket, desired, routed).map_err(|error| ("replace", error))
            }
            ForwardsOp::RemoveTable => table::remove(&self.socket).map_err(|error| ("remove", error)),
            ForwardsOp::SetRouting(link, routes) => {
                return match self.netlink.set_ipv4_routing(link, *routes).await {
                    // One that has gone since the last look.
                    Err(NetworkError::NoSuchInterface { .. }) => Ok(()),
                    set => set,
                };
            }
        };
        changed.map_err(|(operation, error)| NetworkError::from_io(operation, SUBJECT, error))?;
        if table.targets == desired.targets {
            return Ok(());
        }
        connection::forget_stale(&self.socket, &table.targets, &desired.targets)
            .map_err(|error| NetworkError::from_io("forget connections of", SUBJECT, error))
    }
}

/// As errors call it.
const SUBJECT: &str = "the nftables table of forwards";

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
