//! The edge from outside: requests through the ingress, and the whole program beside a hub.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acme;
mod agent;
mod control_plane;
mod forwards;
mod grpc;
mod ingress;
mod limits;
mod program;
mod shared;
mod smuggling;
mod surroundings;
mod traefik;
