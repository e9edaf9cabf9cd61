//! A hub sends packets of the mesh on into the mesh, and opens no other way by that.
//!
//! Invariant: the mesh's link never routes, because of us, without the table that drops what would leave the mesh. Other
//! programs may break it, as one that empties the whole packet filter does; so a hub looks often and repairs. What the
//! host sends on from elsewhere is not touched. The table `inet wisehosting_relay`, as `nft` would print it:
//!
//! ```text
//! chain forward { type filter hook forward priority filter
//!   iifname MESH oifname != MESH ct state established,related accept
//!   iifname MESH oifname != MESH ct status dnat accept
//!   iifname MESH oifname != MESH drop }
//! ```

use super::attribute::{bytes, name, nested, number};
use super::rule::leaving;
use super::socket::{APPEND, CREATE, FilterSocket, Message, Part};
use super::table::{DELETE_TABLE, GET_RULE, NEW_CHAIN, NEW_RULE, NEW_TABLE, is_missing, message};
use crate::{InterfaceName, Netlink, NetworkError};

/// Nobody else's.
const TABLE: &str = "wisehosting_relay";
/// As errors call it.
const SUBJECT: &str = "the nftables table of the relay";
const CHAIN: &str = "forward";
const HOOK_FORWARD: u32 = 2;

/// Lets the mesh's link send on what comes from the mesh for the mesh, over IPv4.
///
/// # Errors
/// `NotPermitted`, `NotSupported` by a kernel without nftables: then the link routes no longer.
pub async fn relay(netlink: &Netlink, mesh: &InterfaceName) -> Result<(), NetworkError> {
    let table = || name(1, TABLE);
    let hook = nested(4, &[number(1, HOOK_FORWARD), bytes(2, &0_i32.to_be_bytes())]);
    // One that is not there cannot be deleted, so it is made first.
    let mut batch = vec![
        message(NEW_TABLE, CREATE, vec![table()]),
        message(DELETE_TABLE, 0, vec![table()]),
        message(NEW_TABLE, CREATE, vec![table()]),
        message(NEW_CHAIN, CREATE, vec![table(), name(3, CHAIN), hook, name(7, "filter")]),
    ];
    let rule = |expressions: Vec<_>| {
        let attributes = vec![table(), name(2, CHAIN), nested(4, &expressions)];
        message(NEW_RULE, CREATE | APPEND, attributes)
    };
    batch.extend(leaving(mesh.as_str()).map(rule));
    if let Err(error) = commit(&batch) {
        // It may route from before. Of the two errors, the first one says why.
        let _ = netlink.set_ipv4_routing(mesh.as_str(), false).await;
        return Err(NetworkError::from_io("replace", SUBJECT, error));
    }
    netlink.set_ipv4_routing(mesh.as_str(), true).await
}

/// Whether all that [`relay`] has made is still there.
///
/// # Errors
/// `NotPermitted`, `NotSupported` by a kernel without nftables.
pub async fn relays(netlink: &Netlink, mesh: &InterfaceName) -> Result<bool, NetworkError> {
    let rules = count_rules().map_err(|error| NetworkError::from_io("read", SUBJECT, error))?;
    let link = netlink.link(mesh.as_str()).await?;
    let routes = link.is_some_and(|link| link.routes_ipv4 == Some(true));
    Ok(routes && rules == leaving(mesh.as_str()).len())
}

/// Removes the table, after the link is gone. One that is not there is no error.
///
/// # Errors
/// `NotPermitted`.
pub fn end_relay() -> Result<(), NetworkError> {
    match commit(&[message(DELETE_TABLE, 0, vec![name(1, TABLE)])]) {
        Err(error) if !is_missing(&error) => Err(NetworkError::from_io("remove", SUBJECT, error)),
        _ => Ok(()),
    }
}

/// None if there is no table.
fn count_rules() -> std::io::Result<usize> {
    let mut rules = 0;
    let of_chain = [name(1, TABLE), name(2, CHAIN)];
    match FilterSocket::open()?.dump(Part::Tables, GET_RULE, &of_chain, |_| rules += 1) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(rules),
    }
}

fn commit(batch: &[Message]) -> std::io::Result<()> {
    FilterSocket::open()?.commit(batch)
}
