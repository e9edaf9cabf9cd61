//! An edge: it keeps the table that it serves, whatever becomes of its connection.

use super::{Random, Table};
use uuid::Uuid;
use wisehosting_domain::{id::InstanceId, rollout};

pub(crate) struct EdgeModel {
    number: usize,
    pub(crate) is_connected: bool,
    pub(crate) serving: Table,
    /// Older tables that requests began on which have not ended.
    pub(crate) in_use: Vec<Table>,
    /// What it said on its connection.
    said: Said,
}

#[derive(Default)]
struct Said {
    acked: u64,
    drained: u64,
    unreachable: Option<i32>,
}

impl EdgeModel {
    pub(crate) fn new(number: usize) -> Self {
        let serving = Table { generation: 0, to: None };
        Self { number, is_connected: true, serving, in_use: Vec::new(), said: Said::default() }
    }

    /// What was said on a connection ends with it.
    pub(crate) fn forget(&mut self) {
        self.said = Said::default();
    }

    /// Takes the newest table, or ends requests; `reachable` says of an instance whether it answers.
    pub(crate) fn go_on(&mut self, newest: Table, reachable: impl Fn(i32) -> bool, random: &mut Random) {
        if self.is_connected && self.said.acked < newest.generation {
            if newest.generation > self.serving.generation {
                self.in_use.push(std::mem::replace(&mut self.serving, newest));
            }
            self.said.acked = self.serving.generation;
            self.said.unreachable = self.serving.to.filter(|number| !reachable(*number));
        } else if random.once_in(3) {
            self.in_use.clear();
        }
        if self.is_connected && self.in_use.is_empty() {
            self.said.drained = self.said.acked;
        }
    }

    /// Whether a request may be on its way to the instance of this deployment.
    pub(crate) fn may_use(&self, number: i32) -> bool {
        self.in_use.iter().chain([&self.serving]).any(|table| table.to == Some(number))
    }

    /// As the control plane sees it; none without a connection.
    pub(crate) fn view(&self) -> Option<rollout::Edge> {
        let problem = self.said.unreachable.map(|number| (instance_id(number), "refused".to_owned()));
        self.is_connected.then(|| rollout::Edge {
            name: format!("edge-{}", self.number),
            acked_generation: self.said.acked,
            drained_generation: self.said.drained,
            problems: problem.into_iter().collect(),
        })
    }

    pub(crate) fn has_acked(&self, generation: u64) -> bool {
        self.said.acked >= generation
    }
}

/// The instance of deployment `number`.
pub(crate) fn instance_id(number: i32) -> InstanceId {
    InstanceId(Uuid::from_u128(number.try_into().expect("positive")))
}
