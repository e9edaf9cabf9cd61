//! The difference against a model of a host.

use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

use super::*;

fn targets() -> impl Strategy<Value = BTreeMap<(Protocol, u16), SocketAddrV4>> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let target = (0_u8..4).prop_map(|host| SocketAddrV4::new([10, 50, 0, host].into(), 80));
    btree_map((protocol, 1_u16..5), target, 0..4)
}

fn name() -> impl Strategy<Value = String> {
    (0_u8..5).prop_map(|number| format!("eth{number}"))
}

fn table() -> impl Strategy<Value = Option<ObservedForwards>> {
    let table = (targets(), btree_set(name(), 0..4), 9_usize..12);
    proptest::option::of(table.prop_map(|(targets, routed, rules)| ObservedForwards {
        targets,
        routed,
        rules,
    }))
}

fn routing() -> impl Strategy<Value = Routing> {
    (any::<bool>(), btree_map(name(), any::<bool>(), 0..5))
        .prop_map(|(everywhere, links)| Routing { everywhere, links })
}

/// What the kernel would do.
fn carry_out(
    ops: &[ForwardsOp],
    table: &mut Option<ObservedForwards>,
    routing: &mut Routing,
    desired: &Forwards,
) {
    for op in ops {
        match op {
            ForwardsOp::ReplaceTable(routed) => {
                let targets = desired.targets.clone();
                *table = Some(ObservedForwards { targets, routed: routed.clone(), rules: RULES });
            }
            ForwardsOp::UpdateTable(routed) => {
                let table = table.as_mut().expect("there is something to change");
                (table.targets, table.routed) = (desired.targets.clone(), routed.clone());
            }
            ForwardsOp::RemoveTable => *table = None,
            ForwardsOp::SetRouting(link, routes) => {
                assert!(table.is_some(), "nothing routes without the table");
                routing.links.insert(link.clone(), *routes);
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_left_to_do_afterwards(
        mut table in table(), mut routing in routing(), targets in targets(),
    ) {
        let desired = Forwards { mesh: "wh0".parse().unwrap(), targets };
        let ops = diff_forwards(table.as_ref(), &routing, &desired);
        carry_out(&ops, &mut table, &mut routing, &desired);
        prop_assert_eq!(diff_forwards(table.as_ref(), &routing, &desired), []);
        prop_assert_eq!(table.is_none(), desired.targets.is_empty());
        if let Some(table) = table {
            prop_assert_eq!(table.targets, desired.targets);
            prop_assert!(routing.links.values().all(|routes| *routes));
        }
    }

    #[test]
    fn links_route_afterwards_as_they_did_before(mut routing in routing(), targets in targets()) {
        let before = routing.clone();
        let mut table = None;
        for targets in [targets, BTreeMap::new()] {
            let desired = Forwards { mesh: "wh0".parse().unwrap(), targets };
            let ops = diff_forwards(table.as_ref(), &routing, &desired);
            carry_out(&ops, &mut table, &mut routing, &desired);
        }
        prop_assert_eq!(table, None);
        if !routing.everywhere {
            prop_assert_eq!(routing, before);
        }
    }
}
