//! What the three programs share: configuration, secrets, logging, sockets, mesh and the signed channel.
//!
//! A program's `main` is [`program::main`]; it hands the checked configuration to the program's own `run`. Nothing in
//! this crate keeps state outside of the values that it returns.

pub mod certificate;
pub mod channel;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod http;
pub mod join;
pub mod listen;
pub mod log;
pub mod mesh;
pub mod private_file;
pub mod program;
pub mod random;
pub mod secret;
pub mod service_manager;
pub mod shutdown;
pub mod tls;
pub mod usage;
