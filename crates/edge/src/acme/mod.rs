//! Certificates by ACME (RFC 8555): for each host name in the route table that has none, and again before they end.
//!
//! Pairs are written into a directory of their own, which [`Certificates`] watch like the operator's: a handshake finds
//! them without this module. Invariants: an operator's pair is never replaced, a certificate authority is asked less
//! and less often for a name that it refuses, and a name that leads elsewhere is not asked for at all.

mod account;
pub mod challenges;
pub mod config;
mod order;
mod plan;
mod reach;

use crate::certificates::Certificates;
use account::Account;
use challenges::Challenges;
use config::AcmeConfig;
use order::OrderError;
use plan::Plan;
use std::{collections::BTreeSet, error::Error, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::name::Hostname;
use wisehosting_node::{clock::Clock, private_file};

/// Names that are asked for at the same time.
const ORDERS_MAX: usize = 4;
/// However far away the next order is: the certificates on disk may change meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What an order ended with, for which name.
type Ended = (Hostname, Result<(), OrderError>);

/// Sees to it that host names have certificates.
pub struct Acme {
    account: Arc<Account>,
    challenges: Arc<Challenges>,
    certificates: Arc<Certificates>,
    clock: Arc<dyn Clock>,
    /// Where pairs are written.
    directory: PathBuf,
    plan: Plan,
    orders: JoinSet<Ended>,
}

impl Acme {
    /// Writes pairs into `directory`.
    #[must_use]
    pub fn new(
        config: AcmeConfig,
        directory: PathBuf,
        challenges: Arc<Challenges>,
        certificates: Arc<Certificates>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let account = Arc::new(Account::new(config, directory.join(account::FILE)));
        let (plan, orders) = (Plan::default(), JoinSet::new());
        Self { account, challenges, certificates, clock, directory, plan, orders }
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, mut hosts: watch::Receiver<BTreeSet<Hostname>>, shutdown: CancellationToken) {
        loop {
            let wait = self.begin_orders(&hosts.borrow_and_update());
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = hosts.changed() => {}
                Some(ended) = self.orders.join_next() => self.end_order(ended),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Begins the orders that are due, and says how long there is nothing more to begin.
    fn begin_orders(&mut self, hosts: &BTreeSet<Hostname>) -> Duration {
        let now = self.clock.now();
        self.plan.keep_only(hosts);
        while self.orders.len() < ORDERS_MAX {
            let Some(host) = self.plan.next(hosts, |host| self.certificates.coverage(host), now) else {
                break;
            };
            let (account, challenges, directory) =
                (self.account.clone(), self.challenges.clone(), self.directory.clone());
            self.plan.begin(&host);
            self.orders.spawn(async move {
                let ordered = order::certificate(&account, &challenges, &host).await;
                let saved = ordered.and_then(|pair| {
                    private_file::write(&directory.join(format!("{host}.key")), pair.key.as_bytes())?;
                    private_file::write(&directory.join(format!("{host}.crt")), pair.chain.as_bytes())?;
                    Ok(())
                });
                (host, saved)
            });
        }
        self.plan.next_at(now).map_or(WAIT_MAX, |wait| wait.min(WAIT_MAX))
    }

    fn end_order(&mut self, ended: Result<Ended, JoinError>) {
        let Ok((host, result)) = ended.inspect_err(|error| tracing::error!(%error, "an order was cut off"))
        else {
            return;
        };
        let now = self.clock.now();
        match result {
            Ok(()) => {
                self.plan.succeeded(&host, now);
                tracing::info!(host.name = %host, "has a certificate");
            }
            Err(error) => {
                let retry = self.plan.failed(&host, now);
                tracing::warn!(
                    host.name = %host,
                    error = &error as &dyn Error,
                    retry_in_s = retry.as_secs(),
                    "gets no certificate"
                );
            }
        }
    }
}
