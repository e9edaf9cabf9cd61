//! Which name is asked for next, and when: decided from what is there, without asking anybody.

use crate::certificates::Coverage;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use time::OffsetDateTime;
use wisehosting_domain::{
    certificate::{RENEW_AT, retry_after},
    name::Hostname,
};

/// Names that no public authority certifies.
const PRIVATE_DOMAINS: [&str; 4] = ["internal", "invalid", "local", "localhost"];
/// An order that nobody else knows of counts as so many failures: several edges may do the same.
const ALONE_COUNTS_AS: u32 = 4;
/// A new certificate is read from disk within moments; whatever keeps it from being read, more of them do not help.
const AFTER_SUCCESS: Duration = Duration::from_hours(1);
/// With this part of its time left it is renewed also if the control plane cannot say whose turn it is.
const RENEW_ALONE_AT: i32 = 6;

/// What was tried.
#[derive(Debug, Default)]
pub(super) struct Plan {
    tried: BTreeMap<Hostname, Try>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Try {
    failures: u32,
    next: Next,
}

#[derive(Debug, Clone, Copy, Default)]
enum Next {
    /// The order runs.
    #[default]
    Running,
    /// Not before then.
    At(OffsetDateTime),
    /// Not before then, unless something is known that was not.
    AtOrSooner(OffsetDateTime),
}

impl Next {
    fn at(self) -> Option<OffsetDateTime> {
        match self {
            Self::Running => None,
            Self::At(at) | Self::AtOrSooner(at) => Some(at),
        }
    }
}

impl Plan {
    /// A name that needs a certificate now, and for which one may be ordered.
    pub(super) fn next(
        &self,
        hosts: &BTreeSet<Hostname>,
        coverage: impl Fn(&Hostname) -> Option<Coverage>,
        may_order: impl Fn(&Hostname) -> bool,
        now: OffsetDateTime,
    ) -> Option<Hostname> {
        let may_try = |host: &Hostname| match self.tried.get(host) {
            Some(Try { next, .. }) => next.at().is_some_and(|at| at <= now),
            None => true,
        };
        let needs = |host: &Hostname| is_public(host) && needs_one(coverage(host), now);
        let due = |host: &Hostname| may_try(host) && needs(host) && may_order(host);
        hosts.iter().find(|host| due(host)).cloned()
    }

    /// How long until a name may be tried again, if any waits.
    pub(super) fn next_at(&self, now: OffsetDateTime) -> Option<Duration> {
        let waiting = self.tried.values().filter_map(|tried| tried.next.at()).filter(|at| *at > now);
        waiting.min().map(|at| (at - now).unsigned_abs())
    }

    pub(super) fn begin(&mut self, host: &Hostname) {
        self.tried.entry(host.clone()).or_default().next = Next::Running;
    }

    pub(super) fn succeeded(&mut self, host: &Hostname, now: OffsetDateTime) {
        self.tried.insert(host.clone(), Try { failures: 0, next: Next::At(now + AFTER_SUCCESS) });
    }

    /// Says when it will be tried again.
    pub(super) fn failed(&mut self, host: &Hostname, alone: bool, now: OffsetDateTime) -> Duration {
        let tried = self.tried.entry(host.clone()).or_default();
        tried.failures = (tried.failures + 1).max(if alone { ALONE_COUNTS_AS } else { 0 });
        let wait = retry_after(tried.failures);
        tried.next = Next::At(now + wait);
        wait
    }

    /// It was not this edge's turn.
    pub(super) fn put_off(&mut self, host: &Hostname, until: OffsetDateTime) {
        self.tried.entry(host.clone()).or_default().next = Next::AtOrSooner(until);
    }

    /// There was a reason to order that nobody knew of: what is known of earlier orders is of another certificate.
    pub(super) fn begin_anew(&mut self, host: &Hostname) {
        if !self.is_running(host) {
            self.tried.remove(host);
        }
    }

    /// Whether an order for the name runs.
    pub(super) fn is_running(&self, host: &Hostname) -> bool {
        self.tried.get(host).is_some_and(|tried| tried.next.at().is_none())
    }

    /// What was put off may be tried now.
    pub(super) fn look_again(&mut self, now: OffsetDateTime) {
        for tried in self.tried.values_mut() {
            if let Next::AtOrSooner(at) = &mut tried.next {
                *at = now;
            }
        }
    }

    /// Forgets names that are not served any more: one that comes back begins anew.
    pub(super) fn keep_only(&mut self, hosts: &BTreeSet<Hostname>) {
        self.tried.retain(|host, tried| tried.next.at().is_none() || hosts.contains(host));
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

/// Whether a certificate is to be renewed although nobody can say whose turn it is: so that nothing that is served ends.
/// A name that has none was never served with one, and waits.
pub(super) fn cannot_wait(coverage: Option<Coverage>, now: OffsetDateTime) -> bool {
    coverage.is_some_and(|Coverage { not_before, not_after, .. }| {
        not_after - now < (not_after - not_before) / RENEW_ALONE_AT
    })
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

    fn next(plan: &Plan, hosts: &BTreeSet<Hostname>, now: OffsetDateTime) -> Option<String> {
        plan.next(hosts, |_| None, |_| true, now).map(|host| host.to_string())
    }

    #[test]
    fn a_certificate_is_due_when_there_is_none_or_a_third_of_its_time_is_left() {
        let (plan, hosts) = (Plan::default(), hosts(&["a.example.org"]));
        for (coverage, due, due_alone) in [
            (None, true, false),
            (days(false, 90, 31), false, false),
            (days(false, 90, 29), true, false),
            (days(false, 90, 14), true, true),
            (days(false, 6, 3), false, false),
            (days(false, 6, 1), true, false),
            (days(false, 6, 0), true, true),
            (days(false, 6, -9), true, true),
            (days(true, 90, 1), false, true),
            (days(true, 90, 0), true, true),
        ] {
            let next = plan.next(&hosts, |_| coverage, |_| true, NOW);
            assert_eq!(next.is_some(), due, "{coverage:?}");
            assert_eq!(cannot_wait(coverage, NOW), due_alone, "{coverage:?}");
        }
    }

    #[test]
    fn names_that_nobody_certifies_are_not_asked_for() {
        let hosts = hosts(&["localhost", "a.localhost", "printer.local", "x"]);
        assert_eq!(next(&Plan::default(), &hosts, NOW), None);
    }

    #[test]
    fn a_refused_name_waits_and_does_not_hold_up_others() {
        let (mut plan, hosts) = (Plan::default(), hosts(&["a.example.org", "b.example.org"]));
        let a: Hostname = "a.example.org".parse().unwrap();
        plan.begin(&a);
        assert_eq!(next(&plan, &hosts, NOW).as_deref(), Some("b.example.org"));
        let waits: Vec<_> = (0..3).map(|_| plan.failed(&a, false, NOW).as_secs()).collect();
        assert_eq!(waits, [60, 240, 960]);
        let wait = Duration::from_secs(960);
        assert_eq!(plan.next_at(NOW), Some(wait));
        plan.look_again(NOW);
        assert_eq!(next(&plan, &hosts, NOW).as_deref(), Some("b.example.org"));
        assert_eq!(next(&plan, &hosts, NOW + wait).as_deref(), Some("a.example.org"));
    }

    #[test]
    fn a_failure_that_nobody_else_knows_of_counts_more() {
        let (mut plan, a) = (Plan::default(), "a.example.org".parse().unwrap());
        let waits: Vec<_> = (0..3).map(|_| plan.failed(&a, true, NOW).as_secs()).collect();
        assert_eq!(waits, [3840, 15_360, 61_440]);
    }

    #[test]
    fn what_was_put_off_is_looked_at_sooner_when_there_is_news() {
        let (mut plan, hosts) = (Plan::default(), hosts(&["a.example.org"]));
        let (a, later) = ("a.example.org".parse().unwrap(), NOW + Span::minutes(1));
        plan.begin(&a);
        plan.put_off(&a, later);
        assert_eq!(next(&plan, &hosts, NOW), None);
        assert!(next(&plan, &hosts, later).is_some());
        plan.look_again(NOW);
        assert!(next(&plan, &hosts, NOW).is_some());
        assert_eq!(plan.next(&hosts, |_| None, |_| false, later), None, "it is another edge's turn");
    }

    #[test]
    fn a_name_that_comes_back_begins_anew_but_not_beside_its_own_order() {
        let (mut plan, served) = (Plan::default(), hosts(&["a.example.org"]));
        let a: Hostname = "a.example.org".parse().unwrap();
        plan.begin(&a);
        plan.keep_only(&BTreeSet::new());
        assert_eq!(next(&plan, &served, NOW), None);
        plan.failed(&a, false, NOW);
        plan.keep_only(&BTreeSet::new());
        assert!(next(&plan, &served, NOW).is_some());
    }
}
