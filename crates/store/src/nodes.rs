//! What workers and edges have in common.

use std::net::IpAddr;
use wisehosting_domain::name::Label;

/// A worker or an edge that the configuration declares, or that has joined.
#[derive(Clone, Debug)]
pub struct DeclaredNode {
    /// Its name.
    pub name: Label,
    /// Its address inside the mesh.
    pub address: IpAddr,
}
