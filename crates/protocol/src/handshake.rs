//! What the two sides tell each other when a connection is made, and when the hub refuses.
//!
//! Both speak the same version of the protocol or none: there is no negotiation.

use crate::{
    HEADER_START, HEADER_VERSION, VERSION,
    connection::{HubConnection, START_LIMIT},
    key::SigningKey,
};

/// What an agent's upgrade request says, as far as it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The version that it speaks.
    pub version: Option<u64>,
    /// Where the hub must start to count.
    pub start: Option<u64>,
}

/// Why the hub does not open a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The agent speaks another version.
    #[error(
        "The {older} is too old: the agent speaks version {0} of the protocol, the control plane version {VERSION}.",
        older = older(*.0)
    )]
    OtherVersion(u64),
    /// A header is of no use.
    #[error("The header {0} is missing or is not a number.")]
    Header(&'static str),
}

fn older(version: u64) -> &'static str {
    if version < u64::from(VERSION) { "agent" } else { "control plane" }
}

impl Request {
    /// The hub's side of the connection. `accept_start` was drawn below [`START_LIMIT`], and is what the agent is told.
    ///
    /// # Errors
    /// It is not opened, and why. An agent of another version learns that before all else.
    pub fn accept(self, key: SigningKey, accept_start: u64) -> Result<HubConnection, Refusal> {
        let version = self.version.ok_or(Refusal::Header(HEADER_VERSION))?;
        if version != u64::from(VERSION) {
            return Err(Refusal::OtherVersion(version));
        }
        let start = self.start.filter(|start| *start < START_LIMIT).ok_or(Refusal::Header(HEADER_START))?;
        Ok(HubConnection::new(key, start, accept_start))
    }
}
