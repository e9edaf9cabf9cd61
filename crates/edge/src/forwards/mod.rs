//! Public TCP and UDP ports that lead into the mesh: what is asked for, what is refused, and how it is kept.
//!
//! [`keeper`] puts what the [`api`](crate::api) is asked for in force and on disk ([`mod@file`]); this module decides, and does nothing.
//! Invariant: a book of forwards has no two for the same port, none for a port of the gateway's own, and none that leads
//! anywhere but into the allowed networks.

pub mod file;
pub mod keeper;
pub mod ports;

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
};
use wisehosting_domain::name::{NameError, Word};
use wisehosting_network::{IpNet, Protocol};

/// A protocol as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl From<Proto> for Protocol {
    fn from(proto: Proto) -> Self {
        match proto {
            Proto::Tcp => Self::Tcp,
            Proto::Udp => Self::Udp,
        }
    }
}

/// One forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Its name among those of its protocol.
    pub forward_id: String,
    /// The port of every public address of the gateway.
    pub public_port: NonZeroU16,
    /// Where it leads.
    pub target_ip: Ipv4Addr,
    /// The port there.
    pub target_port: NonZeroU16,
    /// What it carries.
    pub proto: Proto,
}

/// Why a forward is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its name is no name.
    #[error(transparent)]
    Id(NameError),
    /// It leads where none may.
    #[error(transparent)]
    Target(TargetRefusal),
    /// Another forward has the port.
    #[error("port {port} is forwarded already, by {forward_id}")]
    PortForwarded {
        /// The port.
        port: NonZeroU16,
        /// The other forward.
        forward_id: String,
    },
    /// The gateway needs the port itself.
    #[error("port {0} is in use on the gateway itself")]
    PortOfGateway(NonZeroU16),
}

/// Why nothing may lead to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetRefusal {
    /// It is out of the mesh.
    #[error("{0} is not in the mesh, nor in a network of gateway.allowed_targets")]
    Outside(Ipv4Addr),
    /// It is the gateway's, and would lead past what protects the services there.
    #[error("{0} is the gateway itself")]
    Gateway(Ipv4Addr),
}

/// All forwards of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book(BTreeMap<(Proto, String), Forward>);

/// What a gateway allows.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// Networks that forwards may lead to.
    pub targets: Vec<IpNet>,
    /// The gateway's address there, to which none may lead.
    pub own_address: Option<IpAddr>,
    /// Ports of the gateway's own.
    pub own_ports: BTreeSet<(Proto, u16)>,
}

impl Bounds {
    /// Whether something may lead to `target`.
    ///
    /// # Errors
    /// It may not.
    pub fn check_target(&self, target: Ipv4Addr) -> Result<(), TargetRefusal> {
        let address = IpAddr::V4(target);
        if self.own_address == Some(address) {
            return Err(TargetRefusal::Gateway(target));
        }
        let inside = self.targets.iter().any(|network| network.contains(&address));
        inside.then_some(()).ok_or(TargetRefusal::Outside(target))
    }
}

impl Book {
    /// The same with this forward, in the place of one of its name. Says whether there was none.
    ///
    /// # Errors
    /// It is refused.
    pub fn with(&self, forward: Forward, bounds: &Bounds) -> Result<(Self, bool), Refusal> {
        forward.forward_id.parse::<Word>().map_err(Refusal::Id)?;
        bounds.check_target(forward.target_ip).map_err(Refusal::Target)?;
        let (proto, port) = (forward.proto, forward.public_port);
        let same_port = |other: &&Forward| (other.proto, other.public_port) == (proto, port);
        if let Some(other) = self.0.values().find(same_port)
            && other.forward_id != forward.forward_id
        {
            return Err(Refusal::PortForwarded { port, forward_id: other.forward_id.clone() });
        }
        if bounds.own_ports.contains(&(proto, port.get())) {
            return Err(Refusal::PortOfGateway(port));
        }
        let mut book = self.clone();
        let replaced = book.0.insert((proto, forward.forward_id.clone()), forward);
        Ok((book, replaced.is_none()))
    }

    /// The same without this forward; none if it is not there.
    #[must_use]
    pub fn without(&self, proto: Proto, forward_id: &str) -> Option<Self> {
        let mut book = self.clone();
        book.0.remove(&(proto, forward_id.to_owned()))?;
        Some(book)
    }

    /// Those of one protocol, by name.
    pub fn of(&self, proto: Proto) -> impl Iterator<Item = &Forward> {
        self.0.values().filter(move |forward| forward.proto == proto)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Forward> {
        self.0.values()
    }

    /// As the kernel is told.
    #[must_use]
    pub fn targets(&self) -> BTreeMap<(Protocol, u16), SocketAddrV4> {
        let target = |forward: &Forward| SocketAddrV4::new(forward.target_ip, forward.target_port.get());
        self.all().map(|f| ((f.proto.into(), f.public_port.get()), target(f))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(id: &str, proto: Proto, port: u16) -> Forward {
        Forward {
            forward_id: id.to_owned(),
            public_port: NonZeroU16::new(port).unwrap(),
            target_ip: Ipv4Addr::new(10, 50, 0, 12),
            target_port: NonZeroU16::new(32_215).unwrap(),
            proto,
        }
    }

    fn bounds() -> Bounds {
        Bounds {
            targets: vec!["10.50.0.0/24".parse().unwrap()],
            own_address: Some("10.50.0.30".parse().unwrap()),
            own_ports: BTreeSet::from([(Proto::Tcp, 443)]),
        }
    }

    #[test]
    fn a_forward_is_added_replaced_and_removed() {
        let (book, new) = Book::default().with(forward("a", Proto::Tcp, 22_015), &bounds()).unwrap();
        assert!(new);
        let (book, new) = book.with(forward("a", Proto::Tcp, 22_016), &bounds()).unwrap();
        assert!(!new);
        let (book, _) = book.with(forward("a", Proto::Udp, 22_016), &bounds()).unwrap();
        let target = "10.50.0.12:32215".parse().unwrap();
        let both = [((Protocol::Tcp, 22_016), target), ((Protocol::Udp, 22_016), target)];
        assert_eq!(book.targets(), BTreeMap::from(both));
        let book = book.without(Proto::Tcp, "a").unwrap();
        assert_eq!(book.without(Proto::Tcp, "a"), None);
        assert_eq!(book.of(Proto::Udp).count(), 1);
        assert_eq!(book.without(Proto::Udp, "a"), Some(Book::default()));
    }

    #[test]
    fn what_would_do_harm_is_refused() {
        let (book, _) = Book::default().with(forward("a", Proto::Tcp, 22_015), &bounds()).unwrap();
        let refusal = |forward: Forward| book.with(forward, &bounds()).unwrap_err();
        for id in ["", "-a", "a/b", "../a", "a b", &"a".repeat(65)] {
            assert!(matches!(refusal(forward(id, Proto::Tcp, 1)), Refusal::Id(_)), "{id}");
        }
        let mut outside = forward("b", Proto::Tcp, 1);
        outside.target_ip = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(refusal(outside.clone()), Refusal::Target(TargetRefusal::Outside(outside.target_ip)));
        outside.target_ip = Ipv4Addr::new(10, 50, 0, 30);
        assert_eq!(refusal(outside.clone()), Refusal::Target(TargetRefusal::Gateway(outside.target_ip)));
        let port = NonZeroU16::new(22_015).unwrap();
        let taken = Refusal::PortForwarded { port, forward_id: "a".to_owned() };
        assert_eq!(refusal(forward("b", Proto::Tcp, 22_015)), taken);
        let own = NonZeroU16::new(443).unwrap();
        assert_eq!(refusal(forward("b", Proto::Tcp, 443)), Refusal::PortOfGateway(own));
        assert!(book.with(forward("b", Proto::Udp, 443), &bounds()).is_ok());
    }
}
