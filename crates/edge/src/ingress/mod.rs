//! The door for visitors: takes connections and gives them to threads that serve them.
//!
//! Each thread has its own runtime, its own view of the route table and its own connections to the instances, so that
//! a request touches nothing that another thread writes. Connections are dealt to the threads in turn.

mod access;
mod balancer;
mod connection;
mod forward;
mod host;
mod listener;
mod page;
mod response;
mod thread;
mod tunnel;

pub use balancer::Balancers;

use crate::{acme::challenges::Challenges, table::ServingTable};
use rustls::ServerConfig;
use std::{collections::BTreeSet, io, net::TcpListener, num::NonZero, sync::Arc, time::Duration};
use thread::{Setting, Thread};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::name::Hostname;

/// Where visitors come in.
#[derive(Debug, Default)]
pub struct Doors {
    /// For plain HTTP.
    pub http: Option<TcpListener>,
    /// For HTTP over TLS, and what its visitors are shown.
    pub https: Option<(TcpListener, Arc<ServerConfig>)>,
    /// What certificate authorities are shown on plain HTTP.
    pub challenges: Arc<Challenges>,
    /// Who tells visitors' addresses.
    pub balancers: Balancers,
    /// What requests may take.
    pub limits: Limits,
}

/// What requests may take. `docs/operating.md` says what each of them is for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest body of a request, in bytes.
    pub request_bytes_max: u64,
    /// For an instance to begin its answer, anew with each piece of the request that moves on.
    pub answer_timeout: Duration,
    /// For the next piece of an answer that has begun to come from its instance, and to be taken by its visitor.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: u64::MAX,
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_mins(5),
        }
    }
}

/// The running ingress.
#[derive(Debug)]
pub struct Ingress {
    threads: Arc<[Thread]>,
    stop_accepting: CancellationToken,
    accepting: JoinSet<()>,
    hosts: watch::Sender<BTreeSet<Hostname>>,
}

/// Feels whether the serving threads live.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<[Thread]>);

impl Pulse {
    /// Ends when each of the threads has answered. It does not end while one of them hangs.
    pub async fn felt(self) {
        for thread in &*self.0 {
            // An error says that the thread has ended, as threads do when the program is to end.
            let _ = thread.answer().await;
        }
    }
}

impl Ingress {
    /// Serves `table` to who comes to the doors. Call within a Tokio runtime.
    ///
    /// # Errors
    /// A thread or a listener cannot be set up.
    pub fn start(doors: Doors, threads: NonZero<usize>, table: &Arc<ServingTable>) -> io::Result<Self> {
        let (tls_listener, tls) = doors.https.unzip();
        let setting = Setting {
            tls,
            challenges: doors.challenges,
            balancers: Arc::new(doors.balancers),
            limits: doors.limits,
        };
        let threads: io::Result<Arc<[_]>> =
            (0..threads.get()).map(|index| Thread::start(index, setting.clone(), table.clone())).collect();
        let threads = threads?;
        let stop_accepting = CancellationToken::new();
        let mut accepting = JoinSet::new();
        for (socket, secure) in [(doors.http, false), (tls_listener, true)] {
            if let Some(socket) = socket {
                let accept = listener::accept(socket, secure, threads.clone())?;
                let stop = stop_accepting.clone();
                accepting.spawn(async move { stop.run_until_cancelled(accept).await.unwrap_or_default() });
            }
        }
        Ok(Self { threads, stop_accepting, accepting, hosts: watch::Sender::new(host_names(table)) })
    }

    /// Puts a table in force. When this returns, no request begins on an older one.
    pub async fn install(&self, table: &Arc<ServingTable>) {
        let installed: Vec<_> = self.threads.iter().map(|thread| thread.install(table.clone())).collect();
        for installed in installed {
            // An error says that the thread has ended, and its requests with it.
            let _ = installed.await;
        }
        self.hosts.send_replace(host_names(table));
    }

    /// The host names that are served, now and whenever a table is installed.
    #[must_use]
    pub fn hosts(&self) -> watch::Receiver<BTreeSet<Hostname>> {
        self.hosts.subscribe()
    }

    /// Tells whether it lives.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse(self.threads.clone())
    }

    /// Takes no more connections, and waits up to `grace` for the requests under way.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop_accepting.cancel();
        while self.accepting.join_next().await.is_some() {}
        let ended: Vec<_> = self.threads.iter().map(|thread| thread.shut_down(grace)).collect();
        for ended in ended {
            let _ = ended.await;
        }
    }
}

fn host_names(table: &ServingTable) -> BTreeSet<Hostname> {
    table.table().routes.keys().cloned().collect()
}
