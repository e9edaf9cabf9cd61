//! Nodes that the control plane names, over real WireGuard in network namespaces: by the hub, directly, and back; and hosts
//! that change their keys. Needs root.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

mod hosts;
mod keys;
mod ways;

macro_rules! on_both_backends {
    ($($module:ident::$name:ident),+ $(,)?) => {$(
        mod $name {
            use wisehosting_network::{Backend, testing::kernel_has_wireguard};

            #[tokio::test]
            async fn userspace() {
                crate::$module::$name(Backend::Userspace).await;
            }

            #[tokio::test]
            async fn kernel() {
                if kernel_has_wireguard().await {
                    crate::$module::$name(Backend::Kernel).await;
                }
            }
        }
    )+};
}

on_both_backends!(
    ways::goes_by_the_hub_then_directly_and_back,
    ways::a_way_that_fails_in_one_direction_is_left_by_both_ends,
    ways::a_node_that_is_named_no_longer_is_gone,
    ways::a_hub_leads_into_the_mesh_only,
    ways::a_node_that_moves_is_followed_without_the_hub,
    ways::large_transfers_go_over_a_network_that_is_narrower_than_the_tunnel,
    keys::a_connection_outlives_the_keys_of_the_hub_and_of_a_node,
    keys::a_connection_outlives_the_key_of_a_node_that_has_joined,
    keys::a_connection_of_nodes_that_have_joined_outlives_the_key_of_the_hub,
    keys::nodes_that_have_joined_know_the_keys_of_the_hub_after_a_restart,
);
