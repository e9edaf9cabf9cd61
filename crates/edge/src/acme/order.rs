//! One order: shows that a host name leads here, and takes the certificate.

use super::{
    account::{Account, AccountError},
    challenges::{Challenges, Shown},
    pairs::Pair,
    reach::ReachError,
    sharing::Turn,
};
use instant_acme::{
    Account as Opened, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, Problem,
    RetryPolicy,
};
use std::{io, sync::Arc, time::Duration};
use tokio::time::timeout;
use wisehosting_domain::{
    certificate::{Challenge, ChallengeKind},
    name::Hostname,
};

/// For the authority to look, and again for it to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(60));
/// For all of an order: other edges wait for it.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);

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
    NoChallenge(ChallengeKind),
    #[error("cannot make a certificate for the challenge")]
    Certificate(#[from] rcgen::Error),
    #[error("the certificate authority was not convinced: {0}")]
    Refused(String),
    #[error("the order was cut off by an error of this program")]
    CutOff,
    #[error("the order took too long")]
    TooLong,
    #[error("cannot save the certificate")]
    Save(#[from] io::Error),
}

/// What an authority says of an account or of one request, whichever name it is for (RFC 8555, section 6.7).
const NOT_OF_THE_NAME: [&str; 7] = [
    "urn:ietf:params:acme:error:accountDoesNotExist",
    "urn:ietf:params:acme:error:badNonce",
    "urn:ietf:params:acme:error:badPublicKey",
    "urn:ietf:params:acme:error:badSignatureAlgorithm",
    "urn:ietf:params:acme:error:externalAccountRequired",
    "urn:ietf:params:acme:error:unauthorized",
    "urn:ietf:params:acme:error:userActionRequired",
];

impl OrderError {
    /// Whether the authority refused the name, so that another edge would be refused as well. What this edge's account, disk,
    /// clock or way to the authority is the cause of is not.
    pub(super) fn is_of_the_name(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Authority(instant_acme::Error::Api(problem)) => {
                problem.r#type.as_deref().is_none_or(|kind| !NOT_OF_THE_NAME.contains(&kind))
            }
            _ => false,
        }
    }
}

/// Gets a certificate for one host name. If it is ordered for other edges too, they show what this one does.
pub(super) async fn certificate(
    account: &Account,
    challenges: &Arc<Challenges>,
    host: &Hostname,
    turn: Option<&Turn>,
) -> Result<Pair, OrderError> {
    let order = order(account, challenges, host, turn);
    timeout(ORDER_TIMEOUT, order).await.unwrap_or(Err(OrderError::TooLong))
}

async fn order(
    account: &Account,
    challenges: &Arc<Challenges>,
    host: &Hostname,
    turn: Option<&Turn>,
) -> Result<Pair, OrderError> {
    let opened = account.open().await?;
    let identifiers = [Identifier::Dns(host.to_string())];
    let mut order = opened.new_order(&NewOrder::new(&identifiers)).await?;
    let _shown = answer(&mut order, account.config.challenge, challenges, (host, turn)).await?;
    match order.poll_ready(&PATIENCE).await? {
        OrderStatus::Ready | OrderStatus::Valid => {}
        _ => return Err(OrderError::Refused(reason(opened, order).await?)),
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    Ok(Pair { chain, key: key.into() })
}

/// Shows what the authority wants to see, and asks it to look. What is shown stays until it is dropped.
async fn answer(
    order: &mut Order,
    kind: ChallengeKind,
    challenges: &Arc<Challenges>,
    (host, turn): (&Hostname, Option<&Turn>),
) -> Result<Vec<Shown>, OrderError> {
    let mut shown = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let wanted = match kind {
            ChallengeKind::Http01 => ChallengeType::Http01,
            ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let mut challenge = authorization.challenge(wanted).ok_or(OrderError::NoChallenge(kind))?;
        let key = challenge.key_authorization();
        shown.push(match kind {
            ChallengeKind::Http01 => challenges.show_file(&challenge.token, key.as_str()),
            ChallengeKind::TlsAlpn01 => challenges.show_certificate(host.as_str(), key.as_str())?,
        });
        if let Some(turn) = turn {
            let (token, key_authorization) = (challenge.token.clone(), key.as_str().to_owned());
            turn.show(Challenge { kind, token, key_authorization }).await;
        }
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
