//! What an edge says of certificates, carried out.
//!
//! Invariant: nothing is kept, nor may be ordered, on an edge's word alone. A certificate must be good by the control plane's own
//! clock and authorities, and for an app's host name.

use std::error::Error;

use time::OffsetDateTime;
use wisehosting_domain::{
    certificate,
    name::{Hostname, Label},
};
use wisehosting_node::certificate::{ChainError, Pair, PairError, issuer_of};
use wisehosting_protocol::payload::{Certificate, CertificateOrder, OrderStep, Validity};
use wisehosting_store::{
    StoreError,
    certificates::{self as store, Begin},
    pool, routes,
};

use super::{LEASE, ORDERS_MAX, place, to_ms};
use crate::state::AppState;

/// Carries out a step of an order.
pub(crate) async fn step(state: &AppState, edge: &Label, said: &CertificateOrder) -> Result<(), StoreError> {
    let CertificateOrder { host, order_id: id, step } = said;
    let now = state.clock.now();
    let mut transaction = pool::begin(&state.pool).await?;
    match step {
        OrderStep::Begin { held_not_before_ms } => {
            let held_not_before = held_not_before_ms.map(from_ms);
            let order = Begin { host, id: *id, edge, held_not_before, orders_max: ORDERS_MAX };
            let begun = routes::has_app(&mut transaction, host).await?
                && store::begin(&mut transaction, order, now + LEASE, now).await?;
            tracing::info!(edge.name = %edge, host.name = %host, begun, "an edge wants to order a certificate");
        }
        OrderStep::Challenge(challenge) => store::show(&mut transaction, host, *id, edge, challenge).await?,
        OrderStep::Failed => {
            if let Some(failures) = store::fail(&mut transaction, host, *id, edge).await? {
                let wait = certificate::retry_after(failures);
                store::hold_back(&mut transaction, host, now + wait).await?;
                let retry_in_s = wait.as_secs();
                tracing::warn!(edge.name = %edge, host.name = %host, failures, retry_in_s, "an edge got no certificate");
            }
        }
    }
    pool::commit(transaction).await?;
    state.signals.certificates.notify_one();
    Ok(())
}

/// Why a certificate is not kept.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no app has this host name")]
    NoApp,
    #[error(transparent)]
    Pair(#[from] PairError),
    #[error("it is not good from when or until when it is said to be")]
    OtherValidity,
    #[error("it is not to be trusted")]
    Chain(#[from] ChainError),
}

/// Keeps a certificate of an edge's if it is a good one and there is none as new. It ends the edge's own order, whose outcome
/// it is. The order of another goes on: what was given may be older than what it gets.
pub(crate) async fn keep(state: &AppState, edge: &Label, given: &Certificate) -> Result<(), StoreError> {
    let Certificate { host, chain, .. } = given;
    let mut transaction = pool::begin(&state.pool).await?;
    let accepted = match check(state, given) {
        Ok(_) if !routes::has_app(&mut transaction, host).await? => Err(Refusal::NoApp),
        checked => checked,
    };
    match accepted {
        Ok(certificate) => {
            let newer = store::store(&mut transaction, &certificate).await?;
            tracing::info!(edge.name = %edge, host.name = %host, newer, "an edge gave a certificate");
        }
        Err(refusal) => {
            tracing::warn!(
                edge.name = %edge,
                host.name = %host,
                issuer = issuer_of(chain),
                error = &refusal as &dyn Error,
                "an edge's certificate is not kept"
            );
        }
    }
    store::end(&mut transaction, host, edge).await?;
    pool::commit(transaction).await?;
    state.signals.certificates.notify_one();
    Ok(())
}

/// What an edge gives, its key sealed, if a visitor of the host name may be shown it now.
fn check(state: &AppState, given: &Certificate) -> Result<store::Certificate, Refusal> {
    let Certificate { host, validity, chain, key } = given;
    let pair = Pair::of(host, chain.as_bytes(), key.expose().as_bytes())?;
    if (to_ms(pair.not_before), to_ms(pair.not_after)) != (validity.not_before_ms, validity.not_after_ms) {
        return Err(Refusal::OtherValidity);
    }
    pair.holds(host, &state.config.certificates.authorities, state.clock.now())?;
    let Pair { not_before, not_after, .. } = pair;
    let (owner, place) = place(host);
    let key = state.secrets.keys.seal(owner, place, key);
    Ok(store::Certificate { host: host.clone(), chain: chain.clone(), key, not_before, not_after })
}

/// The certificate of a host name with its key; none if there is none that can be opened.
pub(crate) async fn get(state: &AppState, host: &Hostname) -> Result<Option<Certificate>, StoreError> {
    let mut connection = pool::acquire(&state.pool).await?;
    let Some(stored) = store::get(&mut connection, host).await? else { return Ok(None) };
    let (owner, place) = place(host);
    let key = match state.secrets.keys.open(owner, place, &stored.key) {
        Ok(key) => key,
        Err(error) => {
            tracing::error!(host.name = %host, %error, "the key of a certificate cannot be opened");
            return Ok(None);
        }
    };
    let (not_before_ms, not_after_ms) = (to_ms(stored.not_before), to_ms(stored.not_after));
    let validity = Validity { not_before_ms, not_after_ms };
    Ok(Some(Certificate { host: host.clone(), validity, chain: stored.chain, key }))
}

/// A time that an edge has said; the last one that there is if it is beyond that.
fn from_ms(ms: u64) -> OffsetDateTime {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
}
