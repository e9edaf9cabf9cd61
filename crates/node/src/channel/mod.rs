//! The agent's side of the signed channel to the control plane.
//!
//! [`spawn`] registers the node, keeps its token fresh, connects, and connects again for ever; the agent sees a queue to
//! send on and a stream of [`Event`]s. Nothing of one connection is valid on the next: each has its own sequence
//! numbers, and begins with a `register` message.
//!
//! How a message waits is its type's [`Queueing`](wisehosting_protocol::message::Queueing): what is sent while there is no connection waits in a bounded queue,
//! except what is only true at its moment (a heartbeat, usage figures, what an edge serves), of which the newest waits
//! while there is a connection, and nothing otherwise. A message that was on its way when a connection broke may be lost:
//! what must arrive (a job's result) is sent again by its owner on [`Event::Connected`] until the hub acknowledges it. What is
//! worth something behind other messages only (a result behind its log) is sent on
//! [their connection](ChannelHandle::try_send_on) or not at all.

pub mod backoff;
pub mod drive;
mod latest;
pub mod memory;
mod queue;
pub mod registration;
mod session;
mod socket;
#[cfg(test)]
mod tls_server;
mod token;

pub use queue::{ChannelHandle, NotSent, Waiting, queue};

use crate::{
    clock::Clock,
    config::{ConfigError, ControlPlaneEndpoint},
    mesh::PeerSets,
    secret,
};
use backoff::Backoff;
use queue::QUEUE_LEN;
use secrecy::{ExposeSecret, SecretString};
use session::{Served, SessionEnd};
use std::{error::Error, fmt, sync::Arc, time::Duration};
use token::TokenKeeper;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
pub use wisehosting_domain::role::Role;
use wisehosting_protocol::{
    key::SigningKey,
    message::HubMessage,
    payload::{Register, Registered},
    timing::Timing,
};

/// The path below `/v1/` of the endpoints for this kind of agent.
fn path_of(role: Role) -> &'static str {
    match role {
        Role::Worker => "/v1/workers",
        Role::Edge => "/v1/edges",
    }
}

/// Who this node is and where the control plane is.
#[derive(Clone)]
pub struct Identity {
    /// What kind of agent it is.
    pub role: Role,
    /// The section `[control_plane]`.
    pub endpoint: ControlPlaneEndpoint,
    /// The node's API key.
    pub api_key: SecretString,
    /// Version of the agent program.
    pub version: &'static str,
}

impl Identity {
    /// The identity of the section `[control_plane]`, with the API key that it names.
    ///
    /// # Errors
    /// The key cannot be read.
    pub fn read(
        role: Role,
        endpoint: ControlPlaneEndpoint,
        version: &'static str,
    ) -> Result<Self, ConfigError> {
        let api_key = secret::read("control_plane.api_key", endpoint.api_key_file.as_deref())?;
        Ok(Self { role, endpoint, api_key, version })
    }

    fn signing_key(&self) -> SigningKey {
        SigningKey::derive(self.api_key.expose_secret())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("role", &self.role)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// What happens on the channel, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The hub knows this node again: send what it has not acknowledged. The first such event is of connection 1, the next one
    /// of connection 2, and so on.
    Connected(Registered),
    /// The hub says something.
    Message(HubMessage),
    /// The connection ended; another follows by itself.
    Disconnected,
}

/// Starts the channel. `register` gives the first message of each connection; what the hub says of the mesh goes to `sets`. It
/// runs until `shutdown`.
///
/// # Errors
/// The HTTP client cannot be set up, or the URL needs TLS and the host has no certificate authorities.
pub fn spawn(
    identity: Identity,
    clock: Arc<dyn Clock>,
    register: impl Fn() -> Register + Send + Sync + 'static,
    sets: PeerSets,
    shutdown: CancellationToken,
) -> Result<(ChannelHandle, mpsc::Receiver<Event>), SetUpError> {
    let (handle, waiting) = queue();
    let (events, events_out) = mpsc::channel(QUEUE_LEN);
    let dialer = socket::Dialer::new(&identity)?;
    let tokens = Arc::new(TokenKeeper::new(identity, clock.clone())?);
    let channel = Channel { tokens, dialer, clock, register: Box::new(register), sets, events, waiting };
    tokio::spawn(async move {
        shutdown.run_until_cancelled(channel.run()).await;
    });
    Ok((handle, events_out))
}

/// Why a channel cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// TLS has nothing to check the control plane with.
    #[error("set up TLS to the control plane")]
    Tls(#[from] crate::tls::NoRoots),
    /// The HTTP client cannot be made.
    #[error("set up the HTTP client")]
    Http(#[from] reqwest::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    /// The control plane does not know the key.
    #[error("the control plane refuses this node: check control_plane.name and control_plane.api_key_file")]
    Refused,
    /// The token was not given.
    #[error("get a token")]
    Token(#[source] reqwest::Error),
    /// The connection was not made.
    #[error("open the channel")]
    Dial(#[from] socket::DialError),
}

impl ConnectError {
    /// Whether somebody has to change something before it can go away.
    fn is_lasting(&self) -> bool {
        matches!(self, Self::Refused | Self::Dial(socket::DialError::OtherVersion(_)))
    }
}

struct Channel {
    tokens: Arc<TokenKeeper>,
    dialer: socket::Dialer,
    clock: Arc<dyn Clock>,
    register: Box<dyn Fn() -> Register + Send + Sync>,
    sets: PeerSets,
    events: mpsc::Sender<Event>,
    waiting: Waiting,
}

impl Channel {
    async fn run(mut self) {
        let tokens = self.tokens.clone();
        tokio::select! {
            () = self.keep_connected() => {}
            () = tokens.keep_fresh() => {}
        }
    }

    /// Connects for ever. Ends only when the agent has dropped its ends.
    async fn keep_connected(&mut self) {
        let mut backoff = Backoff::default();
        let mut silent = false;
        loop {
            let mut open_for = Duration::ZERO;
            match self.connect().await {
                Ok(link) => {
                    silent = false;
                    let served = self.serve(link).await;
                    match served.end {
                        SessionEnd::AgentGone => return,
                        SessionEnd::Broken(reason) => log_break(&reason),
                    }
                    open_for = served.open_for;
                    if self.events.send(Event::Disconnected).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    log_failure(&error, silent);
                    silent = true;
                    if error.is_lasting() {
                        backoff.slow_down();
                    }
                }
            }
            tokio::time::sleep(backoff.next(open_for, crate::random::fraction())).await;
        }
    }

    async fn connect(&self) -> Result<socket::Link, ConnectError> {
        let token = self.tokens.get().await?;
        let link = self.dialer.dial(&token).await;
        if let Err(socket::DialError::TokenRefused) = link {
            self.tokens.forget();
        }
        Ok(link?)
    }

    async fn serve(&mut self, link: socket::Link) -> Served {
        let agent = session::Agent {
            register: (self.register)(),
            waiting: &mut self.waiting,
            events: &self.events,
            sets: &self.sets,
            timing: Timing::default(),
        };
        session::run(link, agent, &*self.clock).await
    }
}

fn log_break(reason: &session::Broken) {
    tracing::warn!(error = reason as &dyn Error, "the channel to the control plane broke; connecting again");
}

/// Logs the first failure of a row for the operator, and the following ones for who looks closer.
fn log_failure(error: &ConnectError, silent: bool) {
    let error = error as &dyn Error;
    if silent {
        tracing::debug!(error, "still no channel to the control plane");
    } else {
        tracing::warn!(error, "no channel to the control plane; trying again until there is one");
    }
}
