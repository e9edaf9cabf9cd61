//! From the table in force to the one that the control plane wants, as far as this edge can serve it: pure decisions.

use std::collections::{BTreeMap, BTreeSet};
use wisehosting_domain::{
    id::InstanceId,
    routes::{RouteTable, Upstream},
};

/// The upstreams of `wanted` that this edge has not yet reached: those that `in_force` does not have, and those of it
/// that stood among the `unreached` when it was put in force.
#[must_use]
pub fn new_upstreams(
    in_force: &RouteTable,
    wanted: &RouteTable,
    unreached: &BTreeMap<InstanceId, String>,
) -> BTreeSet<Upstream> {
    let reached = |upstream: &&Upstream| !unreached.contains_key(&upstream.instance_id);
    let known: BTreeSet<_> = upstreams(in_force).filter(reached).collect();
    upstreams(wanted).filter(|upstream| !known.contains(upstream)).cloned().collect()
}

/// `wanted` without the instances that cannot be reached. A host name that would lose all of its upstreams by that
/// keeps what it led to before; one that led nowhere before keeps what is wanted, so that it serves as soon as they can
/// be reached.
#[must_use]
pub fn reachable_part(
    in_force: &RouteTable,
    mut wanted: RouteTable,
    unreachable: &BTreeMap<InstanceId, String>,
) -> RouteTable {
    for (hostname, route) in &mut wanted.routes {
        let reachable = |upstream: &Upstream| !unreachable.contains_key(&upstream.instance_id);
        if route.upstreams.iter().any(reachable) {
            route.upstreams.retain(reachable);
        } else if let Some(before) = in_force.routes.get(hostname) {
            route.clone_from(before);
        }
    }
    wanted
}

fn upstreams(table: &RouteTable) -> impl Iterator<Item = &Upstream> {
    table.routes.values().flat_map(|route| &route.upstreams)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wisehosting_domain::routes::Route;

    fn upstream(n: u8) -> Upstream {
        let id = format!("00000000-0000-0000-0000-{n:012}");
        Upstream { instance_id: id.parse().expect("id"), address: ([10, 50, 0, 11], u16::from(n)).into() }
    }

    fn table(routes: &[(&str, &[u8])]) -> RouteTable {
        let route = |(name, upstreams): &(&str, &[u8])| {
            let upstreams = upstreams.iter().copied().map(upstream).collect();
            let route = Route { app: "app".parse().expect("label"), upstreams };
            (name.parse().expect("host name"), route)
        };
        RouteTable { generation: 1, routes: routes.iter().map(route).collect() }
    }

    #[test]
    fn only_what_is_new_is_checked() {
        let (in_force, wanted) = (table(&[("a", &[1, 2])]), table(&[("a", &[2, 3]), ("b", &[1, 3])]));
        let new = |unreached| new_upstreams(&in_force, &wanted, &unreached);
        assert_eq!(new(BTreeMap::new()), BTreeSet::from([upstream(3)]));
        let never_reached = BTreeMap::from([(upstream(2).instance_id, String::new())]);
        assert_eq!(new(never_reached), BTreeSet::from([upstream(2), upstream(3)]));
    }

    #[test]
    fn an_unreachable_instance_is_left_out_and_never_empties_a_host() {
        let in_force = table(&[("a", &[1]), ("b", &[2]), ("gone", &[9])]);
        let wanted = table(&[("a", &[3]), ("b", &[3, 4]), ("c", &[3])]);
        let unreachable = BTreeMap::from([(upstream(3).instance_id, String::new())]);
        let expected = table(&[("a", &[1]), ("b", &[4]), ("c", &[3])]);
        assert_eq!(reachable_part(&in_force, wanted, &unreachable), expected);
    }
}
