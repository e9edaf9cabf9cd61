//! What has happened in a run, and what is going to.

use std::collections::BTreeMap;

use crate::{clocks::Clocks, control_plane::Task, network::Packet};

/// A connection, by the order in which they were made.
pub(crate) type LinkId = usize;
/// A worker or the edge, by its place in the world.
pub(crate) type NodeId = usize;

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// An agent tries to connect.
    Dial(NodeId),
    /// A packet arrives.
    ToHub(LinkId, Packet),
    ToAgent(LinkId, Packet),
    /// One side of a connection looks at the time.
    AgentLooks(LinkId),
    HubLooks(LinkId),
    /// A message that found the database away is tried again.
    HubGoesOn(LinkId),
    /// One side of a connection is told by the network that it is over.
    AgentNotices(LinkId),
    HubNotices(LinkId),
    StartControlPlane,
    Prepare,
    Tick(Task),
    StartAgent(NodeId),
    EngineBack(NodeId),
    /// An engine has done something that nobody waits for any more.
    EngineGoesOn(NodeId),
    StoreBack,
    /// Whoever has set a clock sets it right.
    ClocksRight,
    Fault,
    User,
    Check,
}

/// Time, and what it brings.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) now_ms: u64,
    pub(crate) clocks: Clocks,
    planned: BTreeMap<(u64, u64), Event>,
    count: u64,
    pub(crate) trace: Vec<String>,
    /// Whether what happens is printed at once.
    show: bool,
}

impl History {
    pub(crate) fn new(clocks: Clocks, show: bool) -> Self {
        Self { clocks, show, ..Self::default() }
    }

    /// Lets something happen at a time, or now if that is over.
    pub(crate) fn plan(&mut self, at_ms: u64, event: Event) {
        self.count += 1;
        self.planned.insert((at_ms.max(self.now_ms), self.count), event);
    }

    pub(crate) fn plan_in(&mut self, wait_ms: u64, event: Event) {
        self.plan(self.now_ms + wait_ms, event);
    }

    /// When the next thing happens.
    pub(crate) fn next_ms(&self) -> u64 {
        self.planned.first_key_value().map_or(self.now_ms, |((ms, _), _)| *ms)
    }

    /// The next thing that happens, at its time.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((ms, _), event) = self.planned.pop_first()?;
        self.now_ms = ms;
        Some(event)
    }

    /// Takes back what is planned.
    pub(crate) fn forget(&mut self, which: impl Fn(&Event) -> bool) {
        self.planned.retain(|_, event| !which(event));
    }

    pub(crate) fn note(&mut self, event: impl Into<String>) {
        let line = format!("{:>7} ms  {}", self.now_ms, event.into());
        if self.show {
            println!("{line}");
        }
        self.trace.push(line);
    }
}
