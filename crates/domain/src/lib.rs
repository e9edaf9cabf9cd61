//! Plain data and pure decisions.
//!
//! Everything here is a total function of its arguments: no I/O, no clock, no randomness, no async. What needs
//! one of these takes it as a parameter, so that every decision of the platform can be tested as a table.

pub mod certificate;
pub mod id;
pub mod limits;
pub mod login;
pub mod name;
pub mod placement;
pub mod preset;
pub mod role;
pub mod rollout;
pub mod routes;
pub mod secret;
pub mod settings;
pub mod source;
pub mod state;
pub mod traefik;
pub mod usage;
