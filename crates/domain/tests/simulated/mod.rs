//! The world of one simulated run: what is stored, who is connected, and what happens next.
//!
//! The store does what `store::rollout` does in Postgres, one transaction at a time. Instances are told apart by the
//! number of their deployment, since each has one.

mod edge;

use edge::{EdgeModel, instance_id};
use uuid::Uuid;
use wisehosting_domain::{
    id::DeploymentId,
    rollout::{Action, App, Deployment, Draining, Edges, Goal, Instance, Leftovers, Policy, Routed, plan},
    state::{
        DeploymentState::{self, *},
        InstanceState,
    },
};

/// Until the faults stop.
const EVENTS: u32 = 150;
/// Enough for every wait of the policy, one after the other.
const CALM_EVENTS: u32 = 300;
const EDGES: usize = 2;

/// SplitMix64: the same numbers on every machine.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A table on its way: which deployment the app's host names lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    pub(crate) to: Option<i32>,
}

/// What is stored of a deployment, and the container of its instance.
struct Stored {
    number: i32,
    state: DeploymentState,
    called_off: bool,
    instance: Option<StoredInstance>,
}

struct StoredInstance {
    state: InstanceState,
    draining: Option<(u64, u64)>,
    /// Whether its worker has a container of it.
    container: bool,
    reachable: bool,
    /// Its worker is being emptied.
    to_move: bool,
}

pub(crate) struct World {
    random: Random,
    now_ms: u64,
    /// The control plane runs since.
    listening_since_ms: u64,
    generation: u64,
    routed: Option<(i32, u64, u64)>,
    deployments: Vec<Stored>,
    edges: Vec<EdgeModel>,
    app: AppModel,
    events: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AppModel {
    Wanted,
    Deleted,
    Removed,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            now_ms: 0,
            listening_since_ms: 0,
            generation: 0,
            routed: None,
            deployments: Vec::new(),
            edges: (0..EDGES).map(EdgeModel::new).collect(),
            app: AppModel::Wanted,
            events: Vec::new(),
        }
    }

    /// What happened, a line each.
    pub(crate) fn events(&self) -> &[String] {
        &self.events
    }

    /// Faults, then calm; what did not hold, if something did not.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        for _ in 0..EVENTS {
            self.now_ms += self.random.below(4_000);
            self.something_happens()?;
            self.check()?;
        }
        self.note("the faults stop");
        for _ in 0..CALM_EVENTS {
            self.now_ms += 1_000;
            self.edges.iter_mut().for_each(|edge| edge.is_connected = true);
            self.worker_goes_on(false);
            self.edges_go_on(false);
            self.plan_and_do()?;
            self.check()?;
        }
        self.check_rest()
    }

    fn note(&mut self, event: impl Into<String>) {
        self.events.push(format!("{:>7} ms  {}", self.now_ms, event.into()));
    }

    fn something_happens(&mut self) -> Result<(), String> {
        match self.random.below(20) {
            0 if self.app == AppModel::Wanted => self.deploy(),
            1 => {
                let edge = usize::try_from(self.random.below(EDGES as u64)).expect("small");
                self.edges[edge].is_connected = !self.edges[edge].is_connected;
                self.edges[edge].forget();
                self.note(format!("edge {edge} is connected: {}", self.edges[edge].is_connected));
            }
            2 => {
                self.listening_since_ms = self.now_ms;
                self.edges.iter_mut().for_each(EdgeModel::forget);
                self.note("the control plane was killed and is back");
            }
            3 if self.random.once_in(40) && self.app == AppModel::Wanted => {
                self.app = AppModel::Deleted;
                self.note("the app is deleted");
            }
            4 if self.random.once_in(10) => self.drain_worker(),
            4..=9 => self.worker_goes_on(true),
            10..=14 => self.edges_go_on(true),
            _ => return self.plan_and_do(),
        }
        Ok(())
    }

    fn deploy(&mut self) {
        let number = i32::try_from(self.deployments.len()).expect("few") + 1;
        self.deployments.push(Stored { number, state: Queued, called_off: false, instance: None });
        self.note(format!("deployment {number} is queued"));
    }
}

/// The worker: jobs of the app in their order, then the stops.
impl World {
    fn worker_goes_on(&mut self, with_faults: bool) {
        let next = self.deployments.iter().position(|d| d.state.is_with_worker());
        if let Some(at) = next.filter(|_| !with_faults || self.random.once_in(2)) {
            let end = if with_faults { self.random.below(8) } else { 7 };
            let reachable = !self.random.once_in(5);
            let deployment = &mut self.deployments[at];
            let event = deployment.go_on(end, reachable);
            self.note(format!("deployment {}: {event}", at + 1));
        }
        let is_back = !with_faults || self.random.once_in(2);
        for at in 0..self.deployments.len() {
            let Some(instance) = &mut self.deployments[at].instance else { continue };
            if is_back && instance.state == InstanceState::Stopping {
                instance.state = InstanceState::Stopped;
                instance.container = false;
                self.note(format!("the instance of deployment {} is stopped", at + 1));
            }
        }
        if with_faults && self.random.once_in(150) {
            self.lose_instances();
        }
    }

    /// The worker was removed from the configuration.
    fn lose_instances(&mut self) {
        use InstanceState::{Draining, Failed, Healthy, Stopping};
        let instances = self.deployments.iter_mut().filter_map(|d| d.instance.as_mut());
        for instance in instances.filter(|i| matches!(i.state, Healthy | Draining | Stopping)) {
            (instance.state, instance.container) = (Failed, false);
        }
        self.generation += 1;
        self.note("the worker was removed, and declared again without its containers");
    }

    /// An operator wants the worker to be empty; there is another.
    fn drain_worker(&mut self) {
        let instances = self.deployments.iter_mut().filter_map(|d| d.instance.as_mut());
        instances.filter(|i| i.state == InstanceState::Healthy).for_each(|instance| instance.to_move = true);
        self.note("the worker is being emptied");
    }

    fn edges_go_on(&mut self, with_faults: bool) {
        let newest = self.table();
        for edge in &mut self.edges {
            if with_faults && self.random.once_in(2) {
                continue;
            }
            let answers = |number: i32| {
                let instance = usize::try_from(number - 1)
                    .ok()
                    .and_then(|at| self.deployments.get(at)?.instance.as_ref());
                instance.is_some_and(|instance| instance.container && instance.reachable)
            };
            edge.go_on(newest, answers, &mut self.random);
        }
    }
}

impl Stored {
    fn is_to_move(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.to_move)
    }

    /// One step of its job, or the end of it.
    fn go_on(&mut self, end: u64, reachable: bool) -> &'static str {
        let instance = |state, container| {
            Some(StoredInstance { state, draining: None, container, reachable, to_move: false })
        };
        let (state, made, event) = match (self.state, self.called_off, end) {
            (Queued, false, _) => (Building, instance(InstanceState::Starting, false), "given to the worker"),
            (_, true, _) => (Cancelled, instance(InstanceState::Failed, false), "called off"),
            (_, _, 0) => (Failed, instance(InstanceState::Failed, false), "the build failed"),
            (_, _, 1) => (Failed, instance(InstanceState::Stopping, true), "the worker was lost"),
            (_, _, 2 | 3) => return "still at work",
            _ => (Routing, instance(InstanceState::Healthy, true), "healthy"),
        };
        (self.state, self.instance) = (state, made);
        event
    }
}

/// The control plane and its store.
impl World {
    fn table(&self) -> Table {
        let to = self.routed.map(|(number, ..)| number).filter(|number| {
            let instance = self.stored(*number).instance.as_ref();
            instance.is_some_and(|instance| instance.state == InstanceState::Healthy)
        });
        Table { generation: self.generation, to }
    }

    fn stored(&self, number: i32) -> &Stored {
        &self.deployments[usize::try_from(number - 1).expect("from 1")]
    }

    fn age_ms(&self, at_ms: u64) -> u64 {
        self.now_ms - at_ms.max(self.listening_since_ms)
    }

    fn is_restless(&self) -> bool {
        self.app == AppModel::Deleted
            || self.deployments.iter().any(|d| {
                let instance = d.instance.as_ref().map(|instance| instance.state);
                d.state == Routing
                    || d.state == Live && self.routed.is_none_or(|(number, ..)| number != d.number)
                    || instance == Some(InstanceState::Draining)
                    || instance == Some(InstanceState::Healthy) && (d.state.is_final() || d.is_to_move())
            })
    }

    fn view(&self) -> App {
        let deployments = self.deployments.iter().filter_map(|d| {
            let instances: Vec<_> = d.instance.iter().filter(|i| i.state.occupies_worker()).collect();
            let matters = !instances.is_empty() || !d.state.is_final();
            matters.then(|| Deployment {
                id: deployment_id(d.number),
                number: d.number,
                state: d.state,
                called_off: d.called_off,
                instances: instances.into_iter().map(|i| self.instance(d.number, i)).collect(),
            })
        });
        let routed = self.routed.map(|(number, generation, at_ms)| Routed {
            deployment_id: deployment_id(number),
            generation,
            age_ms: self.age_ms(at_ms),
        });
        // What workers have left is removed in its own time, and changes nothing of all this.
        let goal = if self.app == AppModel::Deleted { Goal::Gone(Leftovers::default()) } else { Goal::Serve };
        App { goal, routed, deployments: deployments.collect() }
    }

    fn instance(&self, number: i32, stored: &StoredInstance) -> Instance {
        let draining =
            stored.draining.map(|(generation, at_ms)| Draining { generation, age_ms: self.age_ms(at_ms) });
        let to_move = stored.to_move;
        Instance { id: instance_id(number), state: stored.state, draining, to_move }
    }

    fn plan_and_do(&mut self) -> Result<(), String> {
        if self.app == AppModel::Removed || !self.is_restless() {
            return Ok(());
        }
        let connected = self.edges.iter().filter_map(EdgeModel::view).collect();
        let actions = plan(&self.view(), &Edges { declared: EDGES, connected }, Policy::default());
        for action in actions {
            self.note(format!("{action:?}"));
            self.carry_out(&action)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Route(id) => self.route(Some(number(id.0))),
            Action::Unroute => self.route(None),
            Action::Promote(id) => self.advance(number(id.0), Live)?,
            Action::Fail(id, _) => self.advance(number(id.0), Failed)?,
            Action::Supersede(id) => {
                self.check_switch(number(id.0))?;
                self.advance(number(id.0), Superseded)?;
            }
            Action::Drain(id) => {
                let draining = (self.generation, self.now_ms);
                let instance = self.instance_of(number(id.0))?;
                (instance.state, instance.draining) = (InstanceState::Draining, Some(draining));
            }
            Action::Stop(id) => {
                self.check_stop(number(id.0))?;
                self.instance_of(number(id.0))?.state = InstanceState::Stopping;
            }
            Action::Repeat(id) => {
                self.instance_of(number(id.0))?.to_move = false;
                self.deploy();
            }
            Action::Cancel(id) => {
                if self.stored(number(id.0)).state == Queued {
                    self.advance(number(id.0), Cancelled)?;
                }
                self.deployment_of(number(id.0)).called_off = true;
            }
            Action::Retire(id) => self.advance(number(id.0), Stopped)?,
            Action::Delete(_) => unreachable!("nothing is left on a worker"),
            Action::Remove => self.app = AppModel::Removed,
        }
        Ok(())
    }

    fn route(&mut self, to: Option<i32>) {
        self.generation += 1;
        self.routed = to.map(|number| (number, self.generation, self.now_ms));
    }

    fn advance(&mut self, number: i32, next: DeploymentState) -> Result<(), String> {
        let deployment = self.deployment_of(number);
        if !deployment.state.may_become(next) {
            return Err(format!("deployment {number} cannot go from {} to {next}", deployment.state));
        }
        deployment.state = next;
        Ok(())
    }

    fn deployment_of(&mut self, number: i32) -> &mut Stored {
        &mut self.deployments[usize::try_from(number - 1).expect("from 1")]
    }

    fn instance_of(&mut self, number: i32) -> Result<&mut StoredInstance, String> {
        self.deployment_of(number).instance.as_mut().ok_or(format!("deployment {number} has no instance"))
    }
}

/// What must hold.
impl World {
    /// A version that serves gives way only to one that every connected edge serves.
    fn check_switch(&self, old: i32) -> Result<(), String> {
        let (new, generation, _) = self.routed.ok_or("nothing is routed, and yet something is superseded")?;
        let all = self.edges.iter().filter(|edge| edge.is_connected).all(|edge| edge.has_acked(generation));
        let served = self.stored(new).state == Live && (self.stored(old).state != Live || all);
        if served { Ok(()) } else { Err(format!("deployment {old} gives way to {new}, which is not served")) }
    }

    /// An instance is stopped when no request is left on it, or when it has drained for long enough.
    fn check_stop(&self, number: i32) -> Result<(), String> {
        let draining = self.stored(number).instance.as_ref().and_then(|instance| instance.draining);
        let (_, since_ms) = draining.ok_or(format!("deployment {number} is stopped and was not drained"))?;
        let waited = self.age_ms(since_ms) >= Policy::default().drain_timeout_ms;
        if !waited && self.edges.iter().any(|edge| edge.may_use(number)) {
            return Err(format!("deployment {number} is stopped while an edge may use it"));
        }
        Ok(())
    }

    /// After every event.
    fn check(&self) -> Result<(), String> {
        let live: Vec<i32> = self.deployments.iter().filter(|d| d.state == Live).map(|d| d.number).collect();
        if live.len() > 1 && self.app == AppModel::Wanted {
            return Err(format!("deployments {live:?} are live"));
        }
        match self.table().to {
            Some(number) if !self.stored(number).instance.as_ref().is_some_and(|i| i.container) => {
                Err(format!("deployment {number} is routed without a container"))
            }
            _ => Ok(()),
        }
    }

    /// After the faults.
    fn check_rest(&self) -> Result<(), String> {
        if self.app == AppModel::Deleted || self.is_restless() && self.app == AppModel::Wanted {
            return Err("it does not come to rest".to_owned());
        }
        let newest = self.table();
        for deployment in &self.deployments {
            let container = deployment.instance.as_ref().is_some_and(|instance| instance.container);
            let serves = deployment.state == Live && self.app == AppModel::Wanted;
            let number = deployment.number;
            let has_ended = deployment.state == Live || deployment.state.is_final();
            if !has_ended && self.app == AppModel::Wanted {
                return Err(format!("deployment {number} is still {}", deployment.state));
            }
            if container && (!serves || newest.to != Some(number)) {
                return Err(format!("deployment {number} has a container that does not serve"));
            }
        }
        match self.edges.iter().find(|edge| edge.serving != newest) {
            Some(edge) => Err(format!("an edge serves {:?} instead of {newest:?}", edge.serving)),
            None => Ok(()),
        }
    }
}

fn deployment_id(number: i32) -> DeploymentId {
    DeploymentId(instance_id(number).0)
}

fn number(id: Uuid) -> i32 {
    id.as_u128().try_into().expect("small")
}
