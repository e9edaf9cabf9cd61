//! The operator's commands about certificates that edges share. Like the others they talk to the database, which tells the
//! running program.

use anyhow::bail;
use clap::Subcommand;
use time::OffsetDateTime;
use wisehosting_control_plane::config::Config;
use wisehosting_domain::name::Hostname;
use wisehosting_node::{
    certificate::issuer_of,
    clock::{Clock as _, SystemClock},
};
use wisehosting_store::{
    StoreError,
    certificates::{self, Known},
    changes, pool,
};

use crate::{
    commands::open_database,
    listing::{Listing, time},
};

/// What can be done.
#[derive(Subcommand)]
pub(crate) enum CertificateCommand {
    /// List the certificates that edges share, and what is being done about those that are missing.
    List(Listing),
    /// Forget a certificate, such as one whose key was stolen: no edge uses it to get by any more. The next one is ordered at
    /// once, and the old one is shown until then.
    Forget {
        /// Whose.
        #[arg(long)]
        host: Hostname,
    },
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(config: &Config, command: CertificateCommand) -> anyhow::Result<()> {
    match command {
        CertificateCommand::List(listing) => list(config, &listing).await,
        CertificateCommand::Forget { host } => forget(config, &host).await,
    }
}

async fn list(config: &Config, listing: &Listing) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    let now = SystemClock.now();
    let mut rows = Vec::new();
    for known in certificates::list(&mut db).await? {
        let chain = certificates::get(&mut db, &known.host).await?.map(|certificate| certificate.chain);
        let issuer = chain.and_then(|chain| issuer_of(&chain)).unwrap_or_else(dash);
        let (from, until) = known.stored.map(|(from, until)| (time(from), time(until))).unzip();
        let state = state(&known, now);
        rows.push([
            known.host.to_string(),
            issuer,
            from.unwrap_or_else(dash),
            until.unwrap_or_else(dash),
            state,
        ]);
    }
    listing.print(["host", "issuer", "not_before", "not_after", "state"], rows.into_iter());
    Ok(())
}

fn dash() -> String {
    "-".to_owned()
}

fn state(known: &Known, now: OffsetDateTime) -> String {
    let order = known.order.as_ref().filter(|order| order.lease_until > now);
    match (order, known.retry_at.filter(|at| *at > now), known.stored) {
        (Some(order), ..) => format!("being ordered by {}", order.edge),
        (None, Some(at), _) => format!("an order failed, none before {}", time(at)),
        (None, None, Some((_, until))) if until <= now => "ended".to_owned(),
        (None, None, Some(_)) => "kept".to_owned(),
        (None, None, None) if known.forgotten.is_some() => "forgotten".to_owned(),
        (None, None, None) => "none".to_owned(),
    }
}

async fn forget(config: &Config, host: &Hostname) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    match certificates::forget(&mut db, host).await {
        Err(StoreError::NotFound { .. }) => bail!("no certificate of {host} is kept"),
        forgotten => forgotten?,
    }
    pool::notify(&mut db, changes::CERTIFICATES).await?;
    pool::commit(db).await?;
    println!(
        "the certificate of {host} is forgotten: edges show it until they have the next one, which one of them orders now"
    );
    Ok(())
}
