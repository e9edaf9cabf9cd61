//! The clocks of the machines: each a little wrong, and now and then set, by somebody or by what tells it the time.
//!
//! Nothing that is to come to rest may hang on them, and no job may be given up because one was set.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use time::{Duration, OffsetDateTime};
use wisehosting_domain::id::JobId;
use wisehosting_protocol::{
    connection::OpenError,
    envelope::EnvelopeError,
    message::{AgentMessage, HubMessage},
    session::{End, Moment},
};

use crate::{
    history::{Event, LinkId, NodeId},
    world::{EDGE_PLACE, World},
};

/// How wrong a clock may be that nobody has set.
pub(crate) const WRONG_MAX_MS: u64 = 5_000;
/// How far a clock is set at most: little, as by NTP, or much, as by somebody.
const STEPS_MS: [u64; 4] = [20_000, 200_000, 3_600_000, 20_000_000];
/// A clock that is set without the others is set right again, though not at once.
const RIGHT_AFTER_MS: (u64, u64) = (15_000, 30_000);
/// The longest time that a text is on its way, or waits to be read.
const ON_ITS_WAY_MS: u64 = 60_000;
/// What was heard of within this time may not be given up. The platform's own patience is longer, by as much as a clock may be
/// set that passes for a pause.
const HEARD_MS: u64 = 18_000;
/// How long it takes until a clock that was set has no effect any more.
const EFFECT_MS: u64 = 120_000;

/// Jobs that were given up since nothing was heard of them, and deployments that the edges have not taken in time.
const GIVEN_UP: &str = "
    SELECT id::text FROM jobs WHERE message LIKE '%nothing was heard%'
    UNION SELECT j.id::text FROM deployments d JOIN jobs j ON j.deployment_id = d.id AND j.kind = 'deploy'
        WHERE d.message LIKE '%the new routes%'";

/// When all runs begin.
fn at(ms: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000) + std::time::Duration::from_millis(ms)
}

/// A clock that can be set: how far it is ahead of the time, in milliseconds. A clone is the same clock.
#[derive(Clone, Default)]
pub(crate) struct WallClock(Arc<AtomicI64>);

impl WallClock {
    pub(crate) fn new(ahead_ms: u64) -> Self {
        Self(Arc::new(AtomicI64::new(i64::try_from(ahead_ms).expect("seconds"))))
    }

    fn set(&self, ahead_ms: i64) {
        self.0.store(ahead_ms, Ordering::Relaxed);
    }

    fn ahead_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What it shows so long after the beginning.
    pub(crate) fn at(&self, ms: u64) -> OffsetDateTime {
        at(ms) + Duration::milliseconds(self.ahead_ms())
    }

    /// That moment, as a session is told it.
    pub(crate) fn moment(&self, ms: u64) -> Moment {
        let unix_ms = u64::try_from(self.at(ms).unix_timestamp_nanos() / 1_000_000).expect("after 1970");
        Moment { elapsed: std::time::Duration::from_millis(ms), unix_ms }
    }
}

/// All clocks, and what is known of them.
#[derive(Default)]
pub(crate) struct Clocks {
    of_control_plane: WallClock,
    /// By their places in the network.
    of_nodes: Vec<WallClock>,
    /// How wrong each of those is when nobody has set it alone.
    wrong_ms: Vec<i64>,
    /// How wrong all are, by what tells them the time.
    all_wrong_ms: i64,
    /// When one was set last.
    set_ms: Option<u64>,
    heard: BTreeMap<JobId, Heard>,
    /// Jobs that were given up, as of the last look.
    given_up: BTreeSet<String>,
}

/// What was heard of a job.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// When it was spoken of last: to its worker, or by it.
    last_ms: u64,
    /// Whether that was its result.
    is_over: bool,
}

impl Clocks {
    /// Clocks of which none has been set.
    pub(crate) fn new(of_control_plane: WallClock, of_nodes: Vec<WallClock>) -> Self {
        of_control_plane.set(0);
        let wrong_ms = of_nodes.iter().map(WallClock::ahead_ms).collect();
        Self { of_control_plane, of_nodes, wrong_ms, ..Self::default() }
    }

    /// The control plane says something of a job.
    pub(crate) fn hub_speaks(&mut self, message: &HubMessage, now_ms: u64) {
        if let HubMessage::Job(job) = message {
            self.heard.insert(job.job_id, Heard { last_ms: now_ms, is_over: false });
        }
    }

    /// The control plane has heard something of jobs.
    pub(crate) fn hub_hears(&mut self, message: &AgentMessage, now_ms: u64) {
        let (jobs, is_over) = match message {
            AgentMessage::Register(register) => (&register.running_jobs[..], false),
            AgentMessage::Heartbeat(heartbeat) => (&heartbeat.running_jobs[..], false),
            AgentMessage::JobResult(result) => (std::slice::from_ref(&result.job_id), true),
            _ => return,
        };
        for job in jobs {
            let heard = self.heard.entry(*job).or_default();
            if !heard.is_over {
                *heard = Heard { last_ms: now_ms, is_over };
            }
        }
    }

    fn was_set(&self, within_ms: u64, now_ms: u64) -> bool {
        self.set_ms.is_some_and(|set_ms| now_ms - set_ms < within_ms)
    }

    /// Sets all to the time that they are told.
    fn set_all(&self) {
        self.of_control_plane.set(self.all_wrong_ms);
        for (clock, wrong_ms) in self.of_nodes.iter().zip(&self.wrong_ms) {
            clock.set(self.all_wrong_ms + wrong_ms);
        }
    }
}

impl World<'_> {
    /// A moment of the run for the agent of a link, as it is told it.
    pub(crate) fn agent_moment(&self, id: LinkId, ms: u64) -> Moment {
        let node = self.network.links.get(&id).map_or(EDGE_PLACE, |link| link.node);
        self.moment_of(node, ms)
    }

    pub(crate) fn moment_of(&self, node: NodeId, ms: u64) -> Moment {
        self.history.clocks.of_nodes[node].moment(ms)
    }

    /// This moment for the hub.
    pub(crate) fn hub_moment(&self) -> Moment {
        self.history.clocks.of_control_plane.moment(self.history.now_ms)
    }

    /// Whether a connection may end so: the clocks of its sides are too far apart, or were when the text was sent.
    pub(crate) fn may_end(&self, end: &End) -> bool {
        let is_of_time =
            matches!(end, End::Refused { source: OpenError::Envelope(EnvelopeError::Clock(_)), .. });
        is_of_time && self.history.clocks.was_set(ON_ITS_WAY_MS, self.history.now_ms)
    }

    /// Sets the control plane's clock, or that of one node, for a while; or all, as when what tells them the time is wrong.
    pub(crate) fn set_clocks(&mut self) {
        let now_ms = self.history.now_ms;
        if self.history.clocks.was_set(ON_ITS_WAY_MS, now_ms) {
            return;
        }
        self.note_given_up();
        let most_ms = *self.random.choose(&STEPS_MS).expect("some");
        let size_ms = i64::try_from(self.random.between(1, most_ms)).expect("hours");
        let by_ms = if self.random.once_in(2) { size_ms } else { -size_ms };
        let (which, node) = (self.random.below(3), self.any_node());
        let clocks = &mut self.history.clocks;
        clocks.set_ms = Some(now_ms);
        let whose = match which {
            0 => {
                clocks.of_control_plane.set(clocks.all_wrong_ms + by_ms);
                "the control plane's clock"
            }
            1 => {
                clocks.of_nodes[node].set(clocks.all_wrong_ms + by_ms);
                Self::name(node)
            }
            _ => {
                clocks.all_wrong_ms += by_ms;
                clocks.set_all();
                "each clock"
            }
        };
        self.history.note(format!("{whose} is set by {by_ms} ms"));
        let (least_ms, more_ms) = RIGHT_AFTER_MS;
        self.plan_in(least_ms, more_ms, Event::ClocksRight);
    }

    /// Sets those right again that were set alone.
    pub(crate) fn set_clocks_right(&mut self) {
        self.history.note("the clocks are set right");
        self.history.clocks.set_ms = Some(self.history.now_ms);
        self.history.clocks.set_all();
    }

    /// From now on all show the right time, more or less.
    pub(crate) fn end_clock_faults(&mut self) {
        self.note_given_up();
        self.history.clocks.all_wrong_ms = 0;
        self.set_clocks_right();
    }

    /// No job is given up of which something was heard, whatever clock was set.
    pub(crate) fn check_given_up(&mut self) -> Result<(), String> {
        if !self.history.clocks.was_set(EFFECT_MS, self.history.now_ms) {
            return Ok(());
        }
        let before = std::mem::take(&mut self.history.clocks.given_up);
        self.note_given_up();
        let clocks = &self.history.clocks;
        let since_ms = |job: &String| {
            let heard = clocks.heard.get(&job.parse().expect("an id")).copied().unwrap_or_default();
            self.history.now_ms - heard.last_ms
        };
        match clocks
            .given_up
            .difference(&before)
            .map(|job| (job, since_ms(job)))
            .find(|(_, ms)| *ms < HEARD_MS)
        {
            Some((job, ms)) => Err(format!("job {job} is given up, and was spoken of {ms} ms ago")),
            None => Ok(()),
        }
    }

    fn note_given_up(&mut self) {
        let site = &mut *self.site;
        let given_up = site.ground.wait(site.database.rows(GIVEN_UP));
        self.history.clocks.given_up = given_up.into_iter().collect();
    }
}
