//! Which certificate this edge and the control plane exchange next: decided without asking anybody.
//!
//! Invariants: one at a time is waited for, and one that cannot be exchanged is tried less and less often and holds up no
//! other.

use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;
use wisehosting_domain::name::Hostname;

/// For the control plane to answer before something else is tried.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How many times as long as the first time nobody tries again, at most.
const WAITS_MAX: u32 = 256;

/// What is due for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// This edge lacks it.
    Get,
    /// The control plane lacks it.
    Give,
}

/// What was tried and is due still.
#[derive(Debug)]
struct Tried {
    what: Move,
    at: Instant,
    /// How many times as long as the first time to wait before the next try.
    waits: u32,
}

/// The exchange of certificates.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    tried: BTreeMap<Hostname, Tried>,
    /// Whose answer is waited for.
    open: Option<Hostname>,
}

impl Exchange {
    /// What to do now; it counts as tried. None if an answer is waited for, or nothing is due that was not tried lately.
    pub(super) fn next(&mut self, due: &BTreeMap<Hostname, Move>, now: Instant) -> Option<(Hostname, Move)> {
        self.tried.retain(|host, tried| due.get(host) == Some(&tried.what));
        let open = self.open.take().filter(|host| {
            self.tried.get(host).is_some_and(|tried| now.duration_since(tried.at) < ANSWER_PATIENCE)
        });
        if open.is_some() {
            self.open = open;
            return None;
        }
        let may_try = |host: &Hostname| self.tried.get(host).is_none_or(|tried| tried.again_at() <= now);
        let (host, what) =
            due.iter().find(|(host, _)| may_try(host)).map(|(host, what)| (host.clone(), *what))?;
        let waits = self.tried.get(&host).map_or(1, |tried| (tried.waits * 2).min(WAITS_MAX));
        self.tried.insert(host.clone(), Tried { what, at: now, waits });
        self.open = Some(host.clone());
        Some((host, what))
    }

    /// There will be no answer: the next one need not wait.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// It was not tried after all.
    pub(super) fn undo(&mut self, host: &Hostname) {
        self.tried.remove(host);
        self.open = None;
    }

    /// When there may be something to try although nothing has changed.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let open = self.open.as_ref().and_then(|host| self.tried.get(host));
        match open {
            Some(tried) => Some(tried.at + ANSWER_PATIENCE),
            None => self.tried.values().map(Tried::again_at).min(),
        }
    }
}

impl Tried {
    fn again_at(&self) -> Instant {
        self.at + ANSWER_PATIENCE * self.waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(names: &[&str], what: Move) -> BTreeMap<Hostname, Move> {
        names.iter().map(|name| (name.parse().unwrap(), what)).collect()
    }

    fn next(exchange: &mut Exchange, due: &BTreeMap<Hostname, Move>, now: Instant) -> Option<String> {
        exchange.next(due, now).map(|(host, _)| host.to_string())
    }

    #[test]
    fn one_is_waited_for_and_one_without_an_answer_lets_the_others_go_first() {
        let (mut exchange, now) = (Exchange::default(), Instant::now());
        let both = due(&["a.example.org", "b.example.org"], Move::Give);
        assert_eq!(next(&mut exchange, &both, now).as_deref(), Some("a.example.org"));
        assert_eq!(next(&mut exchange, &both, now), None);
        assert_eq!(exchange.next_at(), Some(now + ANSWER_PATIENCE));
        let later = now + ANSWER_PATIENCE;
        // Both may be tried, and each has to wait twice as long after each try.
        let tries: Vec<_> = (0..6)
            .filter_map(|n| Some((n, next(&mut exchange, &both, later + ANSWER_PATIENCE * n)?)))
            .collect();
        let names = [(0, "a"), (1, "b"), (2, "a"), (3, "b"), (5, "b")];
        assert_eq!(tries, names.map(|(n, name)| (n, format!("{name}.example.org"))));
    }

    #[test]
    fn what_is_answered_or_cannot_be_answered_is_not_waited_for() {
        let (mut exchange, now) = (Exchange::default(), Instant::now());
        let both = due(&["a.example.org", "b.example.org"], Move::Get);
        assert!(next(&mut exchange, &both, now).is_some());
        let b = due(&["b.example.org"], Move::Get);
        assert_eq!(next(&mut exchange, &b, now).as_deref(), Some("b.example.org"), "a is there");
        exchange.close();
        assert_eq!(next(&mut exchange, &both, now).as_deref(), Some("a.example.org"), "and is due again");
        exchange.undo(&"a.example.org".parse().unwrap());
        assert_eq!(next(&mut exchange, &both, now).as_deref(), Some("a.example.org"));
        let given = due(&["a.example.org"], Move::Give);
        assert_eq!(
            next(&mut exchange, &given, now).as_deref(),
            Some("a.example.org"),
            "something else is due"
        );
        assert_eq!(next(&mut exchange, &BTreeMap::new(), now), None);
        assert_eq!(exchange.next_at(), None);
    }
}
