//! Where a repository's host is, and whether the worker may connect there for a stranger.
//!
//! git runs in the worker's own network, from where more can be reached than from outside: the programs of this host, its
//! containers, the mesh. Invariant: a destination has no address of these, and it is what git connects to, whatever the
//! name service says later.

use crate::host::{APP_SUBNET, BUILD_SUBNET};
use ipnet::IpNet;
use nix::{ifaddrs, sys::socket::SockaddrStorage};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use wisehosting_domain::source::Repository;

/// Why a repository's host is not connected to.
#[derive(Debug)]
pub(super) enum Refused {
    /// Its address is of this host, its containers, its link or the mesh.
    Inside,
    /// It has no address.
    Unknown(String),
}

/// The addresses of a repository's host.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    host: String,
    port: u16,
    addresses: Vec<IpAddr>,
}

impl Destination {
    pub(super) async fn resolve(repository: &Repository, mesh_address: IpAddr) -> Result<Self, Refused> {
        let unknown = || Refused::Unknown("its address names no host".to_owned());
        // curl does not know a name with a dot at its end again, and would ask the name service once more.
        let named = authority(repository.as_str()).filter(|(host, _)| !host.ends_with('.'));
        let (host, port) = named.ok_or_else(unknown)?;
        let name = host.trim_matches(['[', ']']);
        let found = tokio::net::lookup_host((name, port)).await;
        let found = found.map_err(|error| Refused::Unknown(error.to_string()))?;
        let addresses: Vec<IpAddr> = found.map(|address: SocketAddr| address.ip().to_canonical()).collect();
        if addresses.is_empty() {
            return Err(unknown());
        }
        let inside = inside(mesh_address).map_err(|error| Refused::Unknown(error.to_string()))?;
        if addresses.iter().any(|address| is_refused(*address, &inside)) {
            return Err(Refused::Inside);
        }
        Ok(Self { host: host.to_owned(), port, addresses })
    }
}

impl Destination {
    /// As curl takes it: `host:port:address,address`. None is needed, or understood, where the host is an address itself.
    pub(super) fn pin(&self) -> Option<String> {
        if self.host.starts_with('[') {
            return None;
        }
        let addresses = self.addresses.iter().map(|address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        let addresses = addresses.collect::<Vec<_>>().join(",");
        Some(format!("{}:{}:{addresses}", self.host, self.port))
    }
}

/// Host and port of an address.
fn authority(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let default = if scheme == "https" { 443 } else { 80 };
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((host, port.parse().ok()?)),
        _ => Some((authority, default)),
    }
}

fn is_refused(address: IpAddr, inside: &[IpNet]) -> bool {
    let special = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    special
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || inside.iter().any(|network| network.contains(&address))
}

/// This host's own addresses, the whole network of the one in the mesh, and those of its containers.
fn inside(mesh_address: IpAddr) -> io::Result<Vec<IpNet>> {
    let containers = [BUILD_SUBNET, APP_SUBNET].into_iter().filter_map(|subnet| subnet.parse().ok());
    let mut inside: Vec<IpNet> = containers.collect();
    for interface in ifaddrs::getifaddrs()? {
        let Some(address) = interface.address.as_ref().and_then(ip) else { continue };
        let mask = interface.netmask.as_ref().and_then(ip);
        let network = mask.filter(|_| address == mesh_address);
        let network = network.and_then(|mask| IpNet::with_netmask(address, mask).ok());
        inside.push(network.unwrap_or_else(|| address.into()));
    }
    Ok(inside)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 50, 0, 11));

    async fn resolve(url: &str) -> Result<Option<String>, Refused> {
        let repository = url.parse().expect("a repository");
        Destination::resolve(&repository, MESH_ADDRESS).await.map(|destination| destination.pin())
    }

    #[tokio::test]
    async fn what_only_this_host_can_reach_is_refused_however_it_is_written() {
        for url in [
            "http://127.0.0.1:8081/a",
            "http://127.1/a",
            "http://2130706433/a",
            "http://localhost/a",
            "http://0.0.0.0/a",
            "http://[::1]/a",
            "http://[::ffff:127.0.0.1]:80/a",
            "http://169.254.169.254/latest",
            "https://[fe80::1]/a",
            "http://10.90.0.2:8080/a",
        ] {
            assert!(matches!(resolve(url).await, Err(Refused::Inside)), "{url}");
        }
    }

    #[tokio::test]
    async fn another_host_is_pinned_to_its_addresses() {
        for (url, expected) in [
            ("http://10.0.0.1:3000/a", Some("10.0.0.1:3000:10.0.0.1")),
            ("https://203.0.113.5?x", Some("203.0.113.5:443:203.0.113.5")),
            ("http://[2001:db8::1]/a", None),
        ] {
            assert_eq!(resolve(url).await.expect("a destination").as_deref(), expected);
        }
        assert!(matches!(resolve("https://no-such-host.invalid/a").await, Err(Refused::Unknown(_))));
        for url in ["https://example.org:x/a", "http://localhost./a"] {
            assert!(matches!(resolve(url).await, Err(Refused::Unknown(_))), "{url}");
        }
    }

    #[test]
    fn the_whole_network_of_the_mesh_is_inside_but_not_that_of_other_interfaces() {
        let mesh: Vec<IpNet> = vec!["10.50.0.11/24".parse().unwrap(), "192.0.2.7/32".parse().unwrap()];
        let refused = |address: &str| is_refused(address.parse().unwrap(), &mesh);
        assert!(refused("10.50.0.1") && refused("192.0.2.7"));
        assert!(!refused("10.51.0.1") && !refused("192.0.2.8"));
    }
}
