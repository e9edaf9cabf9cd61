//! A hub sends packets of the mesh on into the mesh, and opens no other way by that.
//!
//! Invariant: the mesh's link never routes, because of us, without the table that drops what would leave the mesh. What
//! the host sends on from elsewhere is not touched. The table `inet wisehosting_relay`, as `nft` would print it:
//!
//! ```text
//! chain forward { type filter hook forward priority filter
//!   iifname MESH oifname != MESH ct state established,related accept
//!   iifname MESH oifname != MESH ct status dnat accept
//!   iifname MESH oifname != MESH drop }
//! ```

use super::attribute::{bytes, name, nested, number};
use super::rule::leaving;
use super::socket::{APPEND, CREATE, FilterSocket, Message};
use super::table::{DELETE_TABLE, NEW_CHAIN, NEW_RULE, NEW_TABLE, is_missing, message};
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
/// `NotPermitted`, `NotSupported` by a kernel without nftables: then the link does not route.
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
    commit(&batch).map_err(|error| NetworkError::from_io("replace", SUBJECT, error))?;
    netlink.set_ipv4_routing(mesh.as_str(), true).await
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

fn commit(batch: &[Message]) -> std::io::Result<()> {
    FilterSocket::open()?.commit(batch)
}
