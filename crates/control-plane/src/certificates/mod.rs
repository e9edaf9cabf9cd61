//! Certificates that edges share: kept here, with their keys sealed, and ordered by one edge at a time.
//!
//! What edges are told is made of what Postgres holds and of which challenges the connected edges show; nothing is
//! remembered between two rounds. What follows from it is for the edges to decide.

mod messages;

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use uuid::Uuid;
use wisehosting_domain::{id::AppId, name::Hostname};
use wisehosting_node::{
    config::ConfigError,
    tls::{self, Authorities},
};
use wisehosting_protocol::payload::{Certificates, Order, Validity};
use wisehosting_store::{
    StoreError,
    certificates::{self as store, Known},
    pool,
};

pub(crate) use messages::{get, keep, step};

use crate::{config::CertificatesConfig, sealing::Place, state::AppState};

/// How long an order is an edge's alone after its last heartbeat.
pub const LEASE: time::Duration = time::Duration::seconds(30);
/// Orders of one edge at a time. An edge that minds its manners has no more than four.
const ORDERS_MAX: u8 = 16;
/// A name that has failed is remembered for longer than the longest time for which nobody orders.
const FAILURES_REMEMBERED: time::Duration = time::Duration::days(2);
/// How long until the next look when nothing is under way.
const INTERVAL_IDLE: Duration = Duration::from_secs(600);

/// Whose certificates are kept: the authorities that are set, or those that the host trusts.
///
/// # Errors
/// Names the setting.
pub fn authorities(config: &CertificatesConfig) -> Result<Authorities, ConfigError> {
    let Some(file) = &config.authorities_file else { return Ok(Arc::new(tls::host_authorities())) };
    let roots = tls::authorities(file).map_err(|error| {
        let message = format!("{}: {:#}", file.display(), anyhow::Error::from(error));
        ConfigError::invalid("certificates.authorities_file", message)
    })?;
    Ok(Arc::new(roots))
}

/// Where the key of a host name's certificate belongs: to no app.
pub(crate) fn place(host: &Hostname) -> (AppId, Place<'_>) {
    (AppId(Uuid::nil()), Place::CertificateKey(host.as_str()))
}

/// Tells edges what is known of certificates.
pub struct Announcer(pub AppState);

impl crate::tasks::Reconciler for Announcer {
    const NAME: &'static str = "certificates";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        let Self(state) = self;
        let now = state.clock.now();
        let mut connection = pool::acquire(&state.pool).await?;
        store::prune(&mut connection, now - FAILURES_REMEMBERED, now).await?;
        let known = store::list(&mut connection).await?;
        state.hub.tell_of_certificates(view(&known, now, |token| state.hub.is_shown(token)));
        let next = known.iter().flat_map(ends).filter(|end| *end > now).min();
        Ok(next.map_or(INTERVAL_IDLE, |end| (end - now).unsigned_abs().min(INTERVAL_IDLE)))
    }
}

/// What edges are told.
fn view(known: &[Known], now: OffsetDateTime, is_shown: impl Fn(&str) -> bool) -> Certificates {
    let mut view = Certificates::default();
    for Known { host, stored, order, retry_at, forgotten } in known {
        if let Some((not_before, not_after)) = stored.filter(|(_, not_after)| *not_after > now) {
            let validity = Validity { not_before_ms: to_ms(not_before), not_after_ms: to_ms(not_after) };
            view.stored.insert(host.clone(), validity);
        }
        if let Some(order) = order.as_ref().filter(|order| order.lease_until > now) {
            let challenge = order.challenge.clone();
            let shown = challenge.as_ref().is_some_and(|challenge| is_shown(&challenge.token));
            view.orders.insert(host.clone(), Order { order_id: order.id, challenge, shown });
        }
        if retry_at.is_some_and(|retry_at| retry_at > now) {
            view.held_back.push(host.clone());
        }
        if let Some((from, _)) = forgotten.filter(|(_, until)| *until > now) {
            view.forgotten.insert(host.clone(), to_ms(from));
        }
    }
    view
}

/// When what is known of a name ends by itself.
fn ends(known: &Known) -> impl Iterator<Item = OffsetDateTime> {
    let lease = known.order.as_ref().map(|order| order.lease_until);
    let certificates = [known.stored, known.forgotten].into_iter().flatten().map(|(_, not_after)| not_after);
    lease.into_iter().chain(known.retry_at).chain(certificates)
}

fn to_ms(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use time::{Duration as Span, macros::datetime};
    use wisehosting_domain::{
        certificate::{Challenge, ChallengeKind},
        id::JobId,
    };

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn known(host: &str) -> Known {
        let host = host.parse().expect("a host name");
        Known { host, stored: None, order: None, retry_at: None, forgotten: None }
    }

    #[test]
    fn what_has_ended_is_not_told() {
        let challenge = Challenge {
            kind: ChallengeKind::Http01,
            token: "token".to_owned(),
            key_authorization: "token.key".to_owned(),
        };
        let stored = Some((NOW - Span::days(60), NOW + Span::days(30)));
        let order = store::Order {
            id: JobId(Uuid::from_u128(1)),
            edge: "proxy-1".parse().expect("a name"),
            challenge: Some(challenge),
            lease_until: NOW + Span::seconds(10),
        };
        let all = [
            Known { stored, ..known("stored.example.org") },
            Known { order: Some(order), ..known("ordered.example.org") },
            Known { retry_at: Some(NOW + Span::minutes(4)), ..known("held.example.org") },
            Known { forgotten: stored, ..known("forgotten.example.org") },
        ];
        let told = |after, shown| view(&all, NOW + after, |token| shown && token == "token");
        let names = |told: &Certificates| {
            let hosts = told.stored.keys().chain(told.orders.keys()).chain(&told.held_back);
            let hosts = hosts.chain(told.forgotten.keys());
            hosts
                .map(|host| host.as_str().split('.').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        let first = told(Span::ZERO, false);
        assert_eq!(names(&first), ["stored", "ordered", "held", "forgotten"]);
        assert!(!first.orders.values().any(|order| order.shown));
        assert!(told(Span::ZERO, true).orders.values().all(|order| order.shown));
        assert_eq!(names(&told(Span::seconds(10), true)), ["stored", "held", "forgotten"]);
        assert_eq!(names(&told(Span::minutes(4), true)), ["stored", "forgotten"]);
        assert_eq!(told(Span::days(30), true), Certificates::default());
        let next = all.iter().flat_map(ends).min();
        assert_eq!(next, Some(NOW + Span::seconds(10)));
    }
}
