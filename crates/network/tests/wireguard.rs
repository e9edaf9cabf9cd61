//! WireGuard interfaces against the real kernel: one contract that every backend keeps. Needs root.
//!
//! Each test builds its own hosts: network namespaces on a bridge, gone when the test ends.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

#[path = "mesh/contract.rs"]
mod contract;
#[path = "mesh/node.rs"]
mod node;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use wisehosting_network::testing::{interface, kernel_has_wireguard};
use wisehosting_network::{
    Backend, BackendChoice, Netlink, NetworkError, Op, PrivateKey, WireGuardInterface,
};

use node::Underlay;

/// Gives each part of the contract two tests, one a backend.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod userspace {
            $(
                #[tokio::test]
                async fn $name() {
                    crate::contract::$name(wisehosting_network::Backend::Userspace).await;
                }
            )+
        }
        mod kernel {
            $(
                #[tokio::test]
                async fn $name() {
                    if wisehosting_network::testing::kernel_has_wireguard().await {
                        crate::contract::$name(wisehosting_network::Backend::Kernel).await;
                    }
                }
            )+
        }
    };
}

contract!(
    carries_a_transfer,
    routes_a_network_behind_a_peer,
    keeps_a_connection_while_its_peer_is_updated,
    stops_when_a_peer_is_removed,
    carries_again_after_a_restart,
    settles_on_whatever_is_desired,
    repairs_what_others_changed,
    refuses_a_name_that_is_taken,
    recovers_when_a_port_becomes_free,
    follows_a_peer_that_moves,
    stays_reachable_behind_a_gateway_that_forgets,
);

#[tokio::test]
async fn auto_takes_the_kernel_where_it_can_and_userspace_where_not() {
    let expected = if kernel_has_wireguard().await { Backend::Kernel } else { Backend::Userspace };
    let underlay = Underlay::new().await;
    let node = underlay.node(1, BackendChoice::Auto).await;
    node.reconcile(interface(1, node.private_key.clone(), vec![])).await.unwrap();
    assert_eq!(node.backend().await, Some(expected));
    node.close().await;
}

#[tokio::test]
async fn a_kernel_interface_outlives_its_process_and_is_taken_over() {
    if !kernel_has_wireguard().await {
        return;
    }
    let underlay = Underlay::new().await;
    let (a, b) = (underlay.node(1, Backend::Kernel).await, underlay.node(2, Backend::Kernel).await);
    let mut stale = b.peer();
    stale.allowed_ips.push("10.60.0.0/16".parse().unwrap());
    a.reconcile(a.interface(vec![stale])).await.unwrap();
    b.reconcile(b.interface(vec![a.peer()])).await.unwrap();
    b.serve_echo(7000).await;
    let mut connection = a.connect("10.50.0.2:7000").await.unwrap();

    a.forget_interface().await;
    assert_eq!(connection.echo(b"nobody in charge").await.unwrap(), b"nobody in charge");
    let desired = a.interface(vec![b.peer()]);
    let changes = a.reconcile(desired).await.unwrap();

    let route = "10.60.0.0/16".parse().unwrap();
    assert!(matches!(&changes[..], [Op::SetPeer(_), Op::RemoveRoute(gone)] if *gone == route), "{changes:?}");
    assert_eq!(connection.echo(b"taken over").await.unwrap(), b"taken over");
    a.close().await;
    b.close().await;
}

#[tokio::test]
async fn without_the_right_it_says_what_is_needed() {
    const MARK: &str = "TEST_RUNS_WITHOUT_RIGHTS";
    const NOBODY: u32 = 65_534;
    if std::env::var_os(MARK).is_some() {
        let desired = interface(1, PrivateKey::generate(), vec![]);
        for choice in ["auto", "kernel", "userspace"] {
            let mut interface =
                WireGuardInterface::new(desired.name.clone(), choice.parse().unwrap()).unwrap();
            let error = interface.reconcile(&desired).await.unwrap_err();
            assert!(matches!(error, NetworkError::NotPermitted { .. }), "{choice}: {error}");
            assert!(error.to_string().contains("this needs root or the capability CAP_NET_ADMIN"));
        }
        assert!(Netlink::here().unwrap().link("wh0").await.unwrap().is_none());
        return;
    }
    // This test again, from a copy that a user without rights can reach.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut again = Command::new(copy);
    again.args(["--exact", "without_the_right_it_says_what_is_needed"]).env(MARK, "1");
    let output = again.uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
