//! The signed channel between the control plane and its agents, without I/O.
//!
//! A message travels in an [`Envelope`](envelope::Envelope) whose HMAC covers the exact bytes of its payload. A
//! [`Connection`](connection::Connection) seals what one side sends and opens what it receives; a
//! [`Session`](session::Session) around it knows who speaks when, how long to wait and how to end. Sockets, clocks and
//! random numbers belong to their caller.

pub mod connection;
pub mod envelope;
pub mod handshake;
pub mod key;
pub mod message;
pub mod payload;
pub mod session;
pub mod timing;
pub mod window;

/// Largest envelope in bytes, both ways.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Largest difference between an envelope's time and the receiver's clock, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: u64 = 5 * 60 * 1_000;

/// Version of the protocol. Sent by the agent in [`HEADER_VERSION`]; the hub refuses one that it cannot speak.
pub const VERSION: u32 = 5;

/// Upgrade request header: the agent's [`VERSION`].
pub const HEADER_VERSION: &str = "x-wisehosting-protocol";

/// Header of the upgrade request and of its answer: the sequence number at which the *other* side must start.
pub const HEADER_START: &str = "x-wisehosting-start";
