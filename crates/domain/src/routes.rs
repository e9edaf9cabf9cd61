//! The route table: which host names lead to which healthy instances.
//!
//! A table is a value with a generation. Two tables of one generation are equal; an edge never goes back to an older
//! one. Every upstream names its instance, so that an address that changes hands cannot be served by mistake.

use crate::{
    id::InstanceId,
    name::{Hostname, Label},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr};

/// One instance that answers for a host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Whose address it is.
    pub instance_id: InstanceId,
    /// Where it listens, inside the mesh.
    pub address: SocketAddr,
}

/// What one host name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The app it belongs to.
    pub app: Label,
    /// At least one upstream, ordered.
    pub upstreams: Vec<Upstream>,
}

/// All routes of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTable {
    /// Grows by one with every change; 0 is the empty table before the first.
    pub generation: u64,
    /// By host name.
    pub routes: BTreeMap<Hostname, Route>,
}

/// A healthy instance of an app's routed deployment, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedInstance {
    /// The app.
    pub app: Label,
    /// The host names of the app.
    pub hostnames: Vec<Hostname>,
    /// The instance.
    pub upstream: Upstream,
}

/// The table for these instances. The order of `instances` does not matter.
#[must_use]
pub fn render(generation: u64, instances: &[RoutedInstance]) -> RouteTable {
    let mut routes = BTreeMap::<Hostname, Route>::new();
    for instance in instances {
        for hostname in &instance.hostnames {
            let route = routes
                .entry(hostname.clone())
                .or_insert_with(|| Route { app: instance.app.clone(), upstreams: Vec::new() });
            route.upstreams.push(instance.upstream.clone());
        }
    }
    for route in routes.values_mut() {
        route.upstreams.sort();
        route.upstreams.dedup();
    }
    RouteTable { generation, routes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn instance(app: &str, n: u8) -> RoutedInstance {
        let upstream = Upstream {
            instance_id: InstanceId(Uuid::from_u128(n.into())),
            address: SocketAddr::from(([10, 50, 0, 11], 20_000 + u16::from(n))),
        };
        RoutedInstance {
            app: app.parse().expect("label"),
            hostnames: vec![format!("{app}.localhost").parse().expect("hostname")],
            upstream,
        }
    }

    #[test]
    fn the_table_does_not_depend_on_the_order_of_the_rows() {
        let forward = render(7, &[instance("a", 1), instance("a", 2), instance("b", 3)]);
        let backward = render(7, &[instance("b", 3), instance("a", 2), instance("a", 1)]);
        assert_eq!(forward, backward);
        assert_eq!(forward.routes.len(), 2);
        assert_eq!(forward.routes[&"a.localhost".parse::<Hostname>().expect("hostname")].upstreams.len(), 2);
    }

    #[test]
    fn the_table_survives_its_wire_form() {
        let table = render(7, &[instance("a", 1)]);
        let text = serde_json::to_string(&table).expect("serialise");
        assert_eq!(serde_json::from_str::<RouteTable>(&text).expect("parse"), table);
    }
}
