//! Three hosts in namespaces on one machine, for the lab command and the tests.
//!
//! Each host is a set of namespaces with a process 1 of its own ([`host`]); the programs of the platform run in them as
//! they would on three machines, from configuration files, joined by the mesh only. Invariants: nothing is put into the
//! machine's own network namespace but sockets on its loopback; and a lab never outlives the process that started it,
//! because every process of a host dies with its process 1, and that dies with us.

mod api;
pub mod busybox;
pub mod certificates;
mod cgroups;
mod error;
pub mod event;
pub mod host;
mod hosts;
pub mod init;
mod lab;
mod launch;
mod mounts;
pub mod podman;
pub mod ports;
pub mod postgres;
pub mod program;
pub mod requirements;
mod secrets;
mod settings;
mod start;
pub mod state;
mod underlay;
pub mod uplink;

pub use error::LabError;
pub use host::Host;
pub use hosts::Hosts;
pub use lab::{Lab, LabOptions, Programs, Progress};
