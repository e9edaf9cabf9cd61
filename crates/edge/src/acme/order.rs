//! One order: shows that a host name leads here, and takes the certificate.

use super::{
    account::{Account, AccountError},
    challenges::{Challenges, Shown},
    config::Challenge,
    reach::{self, ReachError},
};
use instant_acme::{
    Account as Opened, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, Problem,
    RetryPolicy,
};
use std::{io, sync::Arc, time::Duration};
use wisehosting_domain::name::Hostname;

/// For the authority to look, and again for it to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(60));

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("the certificate authority did not take part")]
    Authority(#[from] instant_acme::Error),
    #[error("the certificate authority offers no {0:?} challenge")]
    NoChallenge(Challenge),
    #[error("cannot make a certificate for the challenge")]
    Certificate(#[from] rcgen::Error),
    #[error("the certificate authority was not convinced: {0}")]
    Refused(String),
    #[error("cannot save the certificate")]
    Save(#[from] io::Error),
}

/// In PEM.
pub(super) struct Pair {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Gets a certificate for one host name.
pub(super) async fn certificate(
    account: &Account,
    challenges: &Arc<Challenges>,
    host: &Hostname,
) -> Result<Pair, OrderError> {
    reach::check(host, &account.config.public_addresses).await?;
    let opened = account.open().await?;
    let identifiers = [Identifier::Dns(host.to_string())];
    let mut order = opened.new_order(&NewOrder::new(&identifiers)).await?;
    let _shown = answer(&mut order, account.config.challenge, challenges, host).await?;
    match order.poll_ready(&PATIENCE).await? {
        OrderStatus::Ready | OrderStatus::Valid => {}
        _ => return Err(OrderError::Refused(reason(opened, order).await?)),
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    Ok(Pair { chain, key })
}

/// Shows what the authority wants to see, and asks it to look. What is shown stays until it is dropped.
async fn answer(
    order: &mut Order,
    kind: Challenge,
    challenges: &Arc<Challenges>,
    host: &Hostname,
) -> Result<Vec<Shown>, OrderError> {
    let mut shown = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let wanted = match kind {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let mut challenge = authorization.challenge(wanted).ok_or(OrderError::NoChallenge(kind))?;
        let key = challenge.key_authorization();
        shown.push(match kind {
            Challenge::Http01 => challenges.show_file(&challenge.token, key.as_str()),
            Challenge::TlsAlpn01 => challenges.show_certificate(host.as_str(), key.digest().as_ref())?,
        });
        challenge.set_ready().await?;
    }
    Ok(shown)
}

/// What the authority saw instead: it says so at the challenge.
async fn reason(account: &Opened, order: Order) -> Result<String, OrderError> {
    let mut order = account.order(order.url().to_owned()).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        let said = |problem: &Problem| problem.detail.clone().unwrap_or_else(|| problem.to_string());
        if let Some(problem) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref())
        {
            return Ok(said(problem));
        }
    }
    Ok("it does not say why".to_owned())
}
