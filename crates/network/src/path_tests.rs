//! Which way follows from what is shown, for one end and for two.

use super::*;

const TIMING: PathTiming = PathTiming {
    keepalive_s: NonZeroU16::new(5).unwrap(),
    silence_max: Duration::from_secs(16),
    rest: Duration::from_secs(40),
};

fn address() -> IpNet {
    "10.50.0.11/32".parse().unwrap()
}

fn seen(handshake_age_s: Option<u64>, rx_bytes: u64) -> PeerStatus {
    PeerStatus {
        last_handshake_age: handshake_age_s.map(Duration::from_secs),
        rx_bytes,
        ..PeerStatus::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_handshake_makes_it_direct_and_silence_ends_that() {
    let start = Instant::now();
    let trying = PeerPath::begin(address(), None, start);
    assert_eq!(trying, PeerPath::Trying { since: start });
    assert!(trying.has_peer() && !trying.is_direct());
    let next =
        |path: PeerPath, status: &PeerStatus, after| path.next(Some(status), start + seconds(after), TIMING);

    assert_eq!(next(trying, &seen(None, 148), 3), trying, "packets alone prove one direction only");
    let direct = next(trying, &seen(Some(1), 180), 3);
    assert_eq!(direct, PeerPath::Direct { rx_bytes: 180, heard_at: start + seconds(3) });

    let heard = next(direct, &seen(Some(11), 212), 13);
    assert_eq!(heard, PeerPath::Direct { rx_bytes: 212, heard_at: start + seconds(13) });
    assert_eq!(next(heard, &seen(Some(27), 212), 29), heard, "a keepalive or two may be lost");
    let resting = next(heard, &seen(Some(28), 212), 30);
    assert_eq!(resting, PeerPath::Resting { until: start + seconds(70) });
    assert!(!resting.has_peer() && !resting.is_direct());

    assert_eq!(resting.next(None, start + seconds(69), TIMING), resting);
    let again = resting.next(None, start + seconds(70), TIMING);
    assert_eq!(again, PeerPath::Trying { since: start + seconds(70) });
}

#[test]
fn an_old_handshake_proves_nothing() {
    let start = Instant::now();
    let trying = PeerPath::Trying { since: start };
    assert_eq!(trying.next(Some(&seen(Some(5), 180)), start + seconds(4), TIMING), trying);
    assert!(trying.next(Some(&seen(Some(4), 180)), start + seconds(4), TIMING).is_direct());
}

#[test]
fn a_peer_that_somebody_removed_is_tried_again_by_the_hub() {
    let now = Instant::now();
    let direct = PeerPath::Direct { rx_bytes: 1, heard_at: now };
    assert_eq!(direct.next(None, now, TIMING), PeerPath::Trying { since: now });
}

#[test]
fn what_an_earlier_process_left_in_use_stays_in_use() {
    let now = Instant::now();
    let with_address = |status: PeerStatus| PeerStatus { allowed_ips: [address()].into(), ..status };
    for (status, direct) in [
        (with_address(seen(Some(60), 7)), true),
        (with_address(seen(Some(600), 7)), false),
        (with_address(seen(None, 7)), false),
        (seen(Some(60), 7), false),
    ] {
        assert_eq!(PeerPath::begin(address(), Some(&status), now).is_direct(), direct, "{status:?}");
    }
}

/// Two ends with their own clocks' steps, over an underlay that may lose one direction: whatever happens, in the end both
/// choose alike, and directly only if both directions work.
#[test]
fn both_ends_agree_in_the_end() {
    for (cut_ab, cut_ba) in [(true, false), (false, true), (true, true)] {
        let mut pair = Pair::new();
        pair.run(20);
        assert!(pair.a.path.is_direct() && pair.b.path.is_direct());
        (pair.cut_ab, pair.cut_ba) = (cut_ab, cut_ba);
        pair.run(2 * TIMING.silence_max.as_secs() + 6);
        for second in 0..300 {
            assert!(!pair.a.path.is_direct() && !pair.b.path.is_direct(), "{second} {cut_ab} {cut_ba}");
            pair.run(1);
        }
        (pair.cut_ab, pair.cut_ba) = (false, false);
        pair.run(TIMING.rest.as_secs() + 2 * TIMING.silence_max.as_secs());
        assert!(pair.a.path.is_direct() && pair.b.path.is_direct());
    }
}

struct End {
    path: PeerPath,
    status: Option<PeerStatus>,
    /// When the session that both have began; none without one.
    session: Option<Instant>,
}

impl End {
    fn step(&mut self, now: Instant) {
        if let (Some(status), Some(session)) = (&mut self.status, self.session) {
            status.last_handshake_age = Some(now.duration_since(session));
        }
        self.path = self.path.next(self.status.as_ref(), now, TIMING);
        if !self.path.has_peer() {
            (self.status, self.session) = (None, None);
        } else if self.status.is_none() {
            self.status = Some(PeerStatus::default());
        }
    }

    /// An end that has no such peer takes nothing from it.
    fn hear(&mut self) {
        if let Some(status) = &mut self.status {
            status.rx_bytes += 32;
        }
    }
}

struct Pair {
    a: End,
    b: End,
    cut_ab: bool,
    cut_ba: bool,
    now: Instant,
    second: u64,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let end = || End { path: PeerPath::begin(address(), None, now), status: None, session: None };
        Self { a: end(), b: end(), cut_ab: false, cut_ba: false, now, second: 0 }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            (self.now, self.second) = (self.now + Duration::from_secs(1), self.second + 1);
            self.a.step(self.now);
            if self.second.is_multiple_of(5) {
                self.speak();
            }
            // The other end looks at another moment.
            self.b.step(self.now + Duration::from_millis(700));
        }
    }

    /// Keepalives, and attempts to make a session by who has none.
    fn speak(&mut self) {
        if !self.cut_ab && self.a.status.is_some() {
            self.b.hear();
        }
        if !self.cut_ba && self.b.status.is_some() {
            self.a.hear();
        }
        let both = self.a.status.is_some() && self.b.status.is_some();
        let missing = self.a.session.is_none() || self.b.session.is_none();
        if both && missing && !self.cut_ab && !self.cut_ba {
            (self.a.session, self.b.session) = (Some(self.now), Some(self.now));
        }
    }
}
