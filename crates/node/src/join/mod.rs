//! How a machine that nobody declares joins the mesh: with a token of an operator, over a network that is not trusted.
//!
//! [`proof`] is what both sides compute; [`messages`] is what crosses the wire; the rest is the machine's own side. Invariants: the token and the keys
//! that are secret stay where they are; what the control plane says is used only once it has proved that it knows
//! the token; and a machine makes its keys once.

mod client;
mod command;
mod keys;
pub mod messages;
pub mod proof;
mod settings;

pub use client::{Applicant, JoinError, JoinUrl, Joined, join};
pub use command::JoinArguments;
pub(crate) use command::run;
pub(crate) use settings::beside;
