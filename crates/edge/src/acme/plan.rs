//! Which name is asked for next, and when: decided from what is there, without asking anybody.

use crate::certificates::Coverage;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use time::OffsetDateTime;
use wisehosting_domain::name::Hostname;

/// Names that no public authority certifies.
const PRIVATE_DOMAINS: [&str; 4] = ["internal", "invalid", "local", "localhost"];
/// After the first failure; four times as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const RETRY_FACTOR: u32 = 4;
const RETRY_MAX: Duration = Duration::from_hours(24);
/// A new certificate is read from disk within moments; whatever keeps it from being read, more of them do not help.
const AFTER_SUCCESS: Duration = Duration::from_hours(1);
/// A certificate is renewed when this part of its time is left.
const RENEW_AT: i32 = 3;

/// What was tried.
#[derive(Debug, Default)]
pub(super) struct Plan {
    tried: BTreeMap<Hostname, Try>,
}

#[derive(Debug, Clone, Copy)]
struct Try {
    failures: u32,
    /// None while the order runs.
    not_before: Option<OffsetDateTime>,
}

impl Plan {
    /// A name that needs a certificate now.
    pub(super) fn next(
        &self,
        hosts: &BTreeSet<Hostname>,
        coverage: impl Fn(&Hostname) -> Option<Coverage>,
        now: OffsetDateTime,
    ) -> Option<Hostname> {
        let may_try = |host: &Hostname| match self.tried.get(host) {
            Some(Try { not_before, .. }) => not_before.is_some_and(|not_before| not_before <= now),
            None => true,
        };
        let due = |host: &Hostname| is_public(host) && may_try(host) && needs_one(coverage(host), now);
        hosts.iter().find(|host| due(host)).cloned()
    }

    /// How long until a name may be tried again, if any waits.
    pub(super) fn next_at(&self, now: OffsetDateTime) -> Option<Duration> {
        let waiting = self.tried.values().filter_map(|tried| tried.not_before).filter(|at| *at > now);
        waiting.min().map(|at| (at - now).unsigned_abs())
    }

    pub(super) fn begin(&mut self, host: &Hostname) {
        let failures = self.failures(host);
        self.tried.insert(host.clone(), Try { failures, not_before: None });
    }

    pub(super) fn succeeded(&mut self, host: &Hostname, now: OffsetDateTime) {
        self.tried.insert(host.clone(), Try { failures: 0, not_before: Some(now + AFTER_SUCCESS) });
    }

    /// Says when it will be tried again.
    pub(super) fn failed(&mut self, host: &Hostname, now: OffsetDateTime) -> Duration {
        let failures = self.failures(host);
        let factor = RETRY_FACTOR.saturating_pow(failures);
        let wait = FIRST_RETRY.saturating_mul(factor).min(RETRY_MAX);
        self.tried.insert(host.clone(), Try { failures: failures + 1, not_before: Some(now + wait) });
        wait
    }

    /// Forgets names that are not served any more: one that comes back begins anew.
    pub(super) fn keep_only(&mut self, hosts: &BTreeSet<Hostname>) {
        self.tried.retain(|host, tried| tried.not_before.is_none() || hosts.contains(host));
    }

    fn failures(&self, host: &Hostname) -> u32 {
        self.tried.get(host).map_or(0, |tried| tried.failures)
    }
}

fn is_public(host: &Hostname) -> bool {
    host.as_str().rsplit_once('.').is_some_and(|(_, domain)| !PRIVATE_DOMAINS.contains(&domain))
}

/// The operator's certificates are the operator's to renew.
fn needs_one(coverage: Option<Coverage>, now: OffsetDateTime) -> bool {
    match coverage {
        None => true,
        Some(Coverage { of_operator: true, not_after, .. }) => not_after <= now,
        Some(Coverage { not_before, not_after, .. }) => not_after - now < (not_after - not_before) / RENEW_AT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::{Duration as Span, macros::datetime};

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn hosts(names: &[&str]) -> BTreeSet<Hostname> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn days(of_operator: bool, lifetime: i64, left: i64) -> Option<Coverage> {
        let not_after = NOW + Span::days(left);
        Some(Coverage { of_operator, not_before: not_after - Span::days(lifetime), not_after })
    }

    #[test]
    fn a_certificate_is_due_when_there_is_none_or_a_third_of_its_time_is_left() {
        let (plan, hosts) = (Plan::default(), hosts(&["a.example.org"]));
        for (coverage, due) in [
            (None, true),
            (days(false, 90, 31), false),
            (days(false, 90, 29), true),
            (days(false, 6, 3), false),
            (days(false, 6, 1), true),
            (days(true, 90, 1), false),
            (days(true, 90, 0), true),
        ] {
            assert_eq!(plan.next(&hosts, |_| coverage, NOW).is_some(), due, "{coverage:?}");
        }
    }

    #[test]
    fn names_that_nobody_certifies_are_not_asked_for() {
        let hosts = hosts(&["localhost", "a.localhost", "printer.local", "x"]);
        assert_eq!(Plan::default().next(&hosts, |_| None, NOW), None);
    }

    #[test]
    fn a_refused_name_is_asked_for_less_and_less_often_and_does_not_hold_up_others() {
        let (mut plan, hosts) = (Plan::default(), hosts(&["a.example.org", "b.example.org"]));
        let next = |plan: &Plan, now| plan.next(&hosts, |_| None, now).map(|host| host.to_string());
        let a: Hostname = "a.example.org".parse().unwrap();
        plan.begin(&a);
        assert_eq!(next(&plan, NOW).as_deref(), Some("b.example.org"));
        let waits: Vec<_> = (0..8).map(|_| plan.failed(&a, NOW).as_secs()).collect();
        assert_eq!(waits, [60, 240, 960, 3840, 15_360, 61_440, 86_400, 86_400]);
        assert_eq!(plan.next_at(NOW), Some(RETRY_MAX));
        assert_eq!(next(&plan, NOW).as_deref(), Some("b.example.org"));
        assert_eq!(next(&plan, NOW + RETRY_MAX).as_deref(), Some("a.example.org"));
    }

    #[test]
    fn a_name_that_comes_back_begins_anew_but_not_beside_its_own_order() {
        let (mut plan, served) = (Plan::default(), hosts(&["a.example.org"]));
        let a: Hostname = "a.example.org".parse().unwrap();
        plan.begin(&a);
        plan.keep_only(&BTreeSet::new());
        assert_eq!(plan.next(&served, |_| None, NOW), None);
        plan.failed(&a, NOW);
        plan.keep_only(&BTreeSet::new());
        assert_eq!(plan.next(&served, |_| None, NOW), Some(a));
    }
}
