//! Routes of the main table.
//!
//! Only routes that were added by a program or a person are seen here: those that the kernel derives from an
//! interface's own addresses come and go with the addresses. Adding one that is there and removing one that is not
//! are no errors; another link's route is never taken over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};

use crate::{Netlink, NetworkError};

impl Netlink {
    /// Sends a network straight out of a link.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`, or `Failed` if the link is down or another one has a route for this network.
    pub async fn add_route(&self, name: &str, destination: IpNet) -> Result<(), NetworkError> {
        let index = self.index("add a route to", name)?;
        let message = link_route(destination, index);
        let Err(error) = self.handle.route().add(message).execute().await else { return Ok(()) };
        let error = NetworkError::from_netlink("add a route to", name, error);
        let there =
            error.errno() == Some(Errno::EEXIST) && self.routes(name).await?.contains(&destination.trunc());
        if there { Ok(()) } else { Err(error) }
    }

    /// Sends everything that no other route takes to a gateway, in place of the one that was there.
    ///
    /// # Errors
    /// `NotPermitted`, or `Failed` if the gateway is on no network of this namespace.
    pub async fn add_default_route(&self, gateway: IpAddr) -> Result<(), NetworkError> {
        let message = match gateway {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).build(),
        };
        let added = self.handle.route().add(message).replace().execute().await;
        added
            .map_err(|error| NetworkError::from_netlink("add a default route by", gateway.to_string(), error))
    }

    /// Removes a route that goes straight out of a link, whoever made it.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`.
    pub async fn delete_route(&self, name: &str, destination: IpNet) -> Result<(), NetworkError> {
        let index = self.index("delete a route of", name)?;
        let mut message = link_route(destination, index);
        // These match any route.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        let Err(error) = self.handle.route().del(message).execute().await else { return Ok(()) };
        let error = NetworkError::from_netlink("delete a route of", name, error);
        if error.errno() == Some(Errno::ESRCH) { Ok(()) } else { Err(error) }
    }

    /// The networks that are sent straight out of a link.
    ///
    /// # Errors
    /// `NoSuchInterface`.
    pub async fn routes(&self, name: &str) -> Result<Vec<IpNet>, NetworkError> {
        let index = self.index("read the routes of", name)?;
        let mut networks = Vec::new();
        for request in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let answers: Vec<RouteMessage> =
                self.handle
                    .route()
                    .get(request)
                    .execute()
                    .try_collect()
                    .await
                    .map_err(|error| NetworkError::from_netlink("read the routes of", name, error))?;
            networks.extend(answers.iter().filter(|route| leaves_by(route, index)).filter_map(destination));
        }
        Ok(networks)
    }
}

fn link_route(destination: IpNet, index: u32) -> RouteMessage {
    match destination {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .build(),
    }
}

fn leaves_by(route: &RouteMessage, index: u32) -> bool {
    let header = &route.header;
    let by_link = route.attributes.contains(&RouteAttribute::Oif(index));
    let by_gateway = route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)));
    header.table == RouteHeader::RT_TABLE_MAIN
        && header.protocol != RouteProtocol::Kernel
        && by_link
        && !by_gateway
}

/// The destination; the kernel leaves it out of a default route.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    use rtnetlink::packet_route::AddressFamily;
    let given = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    let address = match (given, route.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (None, AddressFamily::Inet6) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        (None, _) => return None,
    };
    IpNet::new(address, route.header.destination_prefix_length).ok()
}
