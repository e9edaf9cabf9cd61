//! Certificates by ACME (RFC 8555): for each host name in the route table that has none, and again before they end.
//!
//! Pairs are written into a directory of their own, which [`Certificates`] watch like the operator's: a handshake finds
//! them without this module. Several edges share theirs through the control plane ([`sharing`]), which says whose turn it is to
//! order. Invariants: an operator's pair is never replaced, a certificate authority is asked less and less often for a name
//! that it refuses, a name that leads elsewhere is not asked for at all, and while the control plane is away nothing is ordered
//! that can wait.

mod account;
pub mod challenges;
pub mod config;
mod dns;
mod exchange;
mod order;
mod orders;
mod pairs;
mod plan;
mod reach;
pub mod sharing;

use crate::certificates::Certificates;
use account::Account;
use challenges::Challenges;
use config::AcmeConfig;
use order::OrderError;
use orders::{How, Orders, Outcome};
use pairs::PairKeeper;
use plan::Plan;
use sharing::{Known, NoTurn, Sharing, Turns};
use std::{collections::BTreeSet, error::Error, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::name::Hostname;
use wisehosting_node::clock::Clock;
use wisehosting_protocol::payload::Certificate;

/// Orders at the same time, until the control plane has their certificates.
const ORDERS_MAX: usize = 4;
/// For the control plane to take a certificate. It may refuse it, and another edge's may be better.
const ENDING_PATIENCE: Duration = Duration::from_secs(60);
/// However far away the next order is: the certificates on disk may change meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Sees to it that host names have certificates.
pub struct Acme {
    account: Arc<Account>,
    challenges: Arc<Challenges>,
    certificates: Arc<Certificates>,
    clock: Arc<dyn Clock>,
    pairs: PairKeeper,
    turns: Turns,
    received: mpsc::Receiver<Certificate>,
    plan: Plan,
    orders: Orders,
}

impl Acme {
    /// Writes pairs into `directory`.
    #[must_use]
    pub fn new(
        config: AcmeConfig,
        directory: PathBuf,
        challenges: Arc<Challenges>,
        certificates: Arc<Certificates>,
        sharing: Sharing,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let Sharing { turns, received } = sharing;
        let account = Arc::new(Account::new(config, directory.join(account::FILE)));
        let pairs = PairKeeper::new(directory, certificates.clone(), turns.channel.clone());
        let (plan, orders) = (Plan::default(), Orders::default());
        Self { account, challenges, certificates, clock, pairs, turns, received, plan, orders }
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, mut hosts: watch::Receiver<BTreeSet<Hostname>>, shutdown: CancellationToken) {
        let (mut known, mut readings) = (self.turns.known.clone(), self.certificates.readings());
        loop {
            let now_known = known.borrow_and_update().clone();
            let wait = self.look(&hosts.borrow_and_update(), &now_known);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = hosts.changed() => {}
                Ok(()) = known.changed() => self.plan.look_again(self.clock.now()),
                Ok(()) = readings.changed() => {}
                Some(certificate) = self.received.recv() => self.take(certificate),
                Some((host, outcome)) = self.orders.next() => self.end_order(&host, outcome),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Does what is due, and says how long there is nothing more to begin.
    fn look(&mut self, hosts: &BTreeSet<Hostname>, known: &Known) -> Duration {
        let (now, mut look_again) = (self.clock.now(), None);
        if let Some(known) = known {
            for host in self.pairs.forget(&known.forgotten) {
                self.plan.begin_anew(&host);
            }
            // What is given ends this edge's order: so nothing is while one runs.
            let at_rest = hosts.iter().filter(|host| !self.plan.is_running(host));
            look_again = self.pairs.exchange(at_rest, known, now);
            let pairs = &self.pairs;
            let is_owed = |host: &Hostname| hosts.contains(host) && pairs.is_newer(host, known);
            self.orders.ending.retain(|(turn, since)| {
                turn.is_in(known) && is_owed(turn.host()) && since.elapsed() < ENDING_PATIENCE
            });
        }
        self.plan.keep_only(hosts);
        while self.orders.len() < ORDERS_MAX {
            let is_good = |host: &Hostname, of_operator| of_operator || !self.pairs.is_forgotten(host);
            let coverage = |host: &Hostname| {
                self.certificates.coverage(host).filter(|coverage| is_good(host, coverage.of_operator))
            };
            let may_order = |host: &Hostname| match known {
                Some(known) => sharing::may_order(known, host, self.pairs.held_not_before_ms(host)),
                None => plan::cannot_wait(coverage(host), now),
            };
            let Some(host) = self.plan.next(hosts, coverage, may_order, now) else { break };
            self.plan.begin(&host);
            self.begin_order(host, if known.is_some() { How::Shared } else { How::Alone });
        }
        let plan = self.plan.next_at(now).unwrap_or(WAIT_MAX);
        let exchange = look_again.map_or(WAIT_MAX, |at| at.duration_since(Instant::now()));
        plan.min(exchange).min(WAIT_MAX)
    }

    fn take(&mut self, certificate: Certificate) {
        if let Some(host) = self.pairs.take(certificate) {
            self.plan.succeeded(&host, self.clock.now());
        }
    }

    fn begin_order(&mut self, host: Hostname, how: How) {
        let (account, challenges, turns) =
            (self.account.clone(), self.challenges.clone(), self.turns.clone());
        let held_not_before_ms = self.pairs.held_not_before_ms(&host);
        let order = {
            let host = host.clone();
            async move { order_for(&host, how, held_not_before_ms, &account, &challenges, turns).await }
        };
        self.orders.begin(host, how, order);
    }

    fn end_order(&mut self, host: &Hostname, outcome: Outcome) {
        let now = self.clock.now();
        match outcome {
            Outcome::Ordered(pair, turn) => match self.pairs.keep(host, &pair) {
                Ok(()) => {
                    self.orders.ending.extend(turn.map(|turn| (turn, Instant::now())));
                    self.plan.succeeded(host, now);
                    tracing::info!(host.name = %host, "has a certificate");
                }
                Err(error) => self.fail_order(host, &error.into(), How::Alone),
            },
            Outcome::Failed(error, how) => self.fail_order(host, &error, how),
            Outcome::NotOurTurn(NoTurn::Taken) => self.plan.put_off(host, now),
            Outcome::NotOurTurn(NoTurn::NoAnswer) => self.plan.put_off(host, now + WAIT_MAX),
        }
    }

    fn fail_order(&mut self, host: &Hostname, error: &OrderError, how: How) {
        let retry = self.plan.failed(host, how == How::Alone, self.clock.now());
        tracing::warn!(
            host.name = %host,
            error = error as &dyn Error,
            retry_in_s = retry.as_secs(),
            "gets no certificate"
        );
    }
}

/// From the question whether there is anything to order to the pair.
async fn order_for(
    host: &Hostname,
    how: How,
    held_not_before_ms: Option<u64>,
    account: &Account,
    challenges: &Arc<Challenges>,
    turns: Turns,
) -> Outcome {
    // First what costs nobody anything: a name that does not lead to edges is refused to each of them.
    if let Err(error) = reach::check(host, &account.config).await {
        return Outcome::Failed(error.into(), How::Shared);
    }
    let turn = match how {
        How::Alone => None,
        How::Shared => match turns.take(host, held_not_before_ms).await {
            Ok(turn) => Some(turn),
            Err(no_turn) => return Outcome::NotOurTurn(no_turn),
        },
    };
    match order::certificate(account, challenges, host, turn.as_ref()).await {
        Ok(pair) => Outcome::Ordered(pair, turn),
        Err(error) => {
            // What failed here may succeed elsewhere: then it is the next one's turn, once this one's is over.
            if let Some(turn) = turn.filter(|_| error.is_of_the_name()) {
                turn.fail().await;
            }
            Outcome::Failed(error, how)
        }
    }
}
