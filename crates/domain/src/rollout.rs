//! What to do next for an app: switch, prove at the edge, drain, stop.
//!
//! [`plan`] is called again and again with what is true now. It remembers nothing, so a restart of the control plane
//! at any point changes nothing. The old version stays routed until every connected edge serves the new one, and its
//! instances are stopped only after the edges said that no request is left on them, or the drain time is over.

use crate::{
    id::{DeploymentId, InstanceId},
    name::Label,
    state::{DeploymentState, InstanceState},
};

/// How long to wait, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// For the edges to take a new table, before the deployment fails.
    pub routing_timeout_ms: u64,
    /// For the last requests of an old instance, before it is stopped all the same.
    pub drain_timeout_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { routing_timeout_ms: 30_000, drain_timeout_ms: 30_000 }
    }
}

const INSTANCE_GONE: &str = "its instance is gone: was its worker removed? Deploy again";

/// What its owner wants of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// That it serves.
    Serve,
    /// That it does not serve, for now.
    Rest,
    /// That it ends, and is forgotten.
    Gone(Leftovers),
}

/// What workers may still have of an app: containers, images, logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Workers that were not yet told to remove it.
    pub untold: Vec<Label>,
    /// Whether a worker that was told has not yet answered.
    pub awaited: bool,
}

/// One app as the store knows it.
#[derive(Clone, Debug)]
pub struct App {
    /// What its owner wants.
    pub goal: Goal,
    /// Where its host names lead now.
    pub routed: Option<Routed>,
    /// Its deployments that are not final, and those whose instances still occupy a worker; in any order.
    pub deployments: Vec<Deployment>,
}

/// The deployment that an app's host names lead to.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    /// Which.
    pub deployment_id: DeploymentId,
    /// The generation of the route table that first said so.
    pub generation: u64,
    /// For how long the edges could have answered since then: the time in which the control plane ran, in milliseconds.
    pub age_ms: u64,
}

/// One deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Which.
    pub id: DeploymentId,
    /// Counts up within the app.
    pub number: i32,
    /// How far it is.
    pub state: DeploymentState,
    /// Whether its worker was asked to call it off.
    pub called_off: bool,
    /// Its instances that still occupy a worker.
    pub instances: Vec<Instance>,
}

/// One instance.
#[derive(Clone, Copy, Debug)]
pub struct Instance {
    /// Which.
    pub id: InstanceId,
    /// How far it is.
    pub state: InstanceState,
    /// Set while it drains.
    pub draining: Option<Draining>,
    /// Whether its worker is being emptied, and nobody has repeated its deployment since.
    pub to_move: bool,
}

/// Since when an instance drains.
#[derive(Clone, Copy, Debug)]
pub struct Draining {
    /// The first generation of the route table without the instance.
    pub generation: u64,
    /// For how long the edges could have answered since then, in milliseconds.
    pub age_ms: u64,
}

/// One edge that is connected now.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Its name, for messages.
    pub name: String,
    /// The newest generation that it serves.
    pub acked_generation: u64,
    /// No request that began on a table older than this one is left.
    pub drained_generation: u64,
    /// Instances of the acknowledged table that the edge could not reach, and why.
    pub problems: Vec<(InstanceId, String)>,
}

/// The edges of the platform.
#[derive(Clone, Debug, Default)]
pub struct Edges {
    /// How many are declared.
    pub declared: usize,
    /// Those with a live connection.
    pub connected: Vec<Edge>,
}

/// One step for the executor. The steps of one plan are carried out in order, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the app's host names lead to this deployment, in a new generation of the route table.
    Route(DeploymentId),
    /// Take the app's host names out of the route table.
    Unroute,
    /// The edges serve it.
    Promote(DeploymentId),
    /// The edges never served it.
    Fail(DeploymentId, String),
    /// A newer one serves.
    Supersede(DeploymentId),
    /// It serves no longer: its app was stopped.
    Retire(DeploymentId),
    /// Route no new request to it; remember the current generation.
    Drain(InstanceId),
    /// Give its worker a stop job.
    Stop(InstanceId),
    /// Queue a deployment that repeats it: on another worker, since its own is being emptied.
    Repeat(DeploymentId),
    /// Call off what a worker still does for it.
    Cancel(DeploymentId),
    /// Tell a worker to remove all that it has of the app.
    Delete(Label),
    /// Forget the app: nothing of it is left anywhere.
    Remove,
}

/// The next steps for one app; empty when there is nothing to do now.
#[must_use]
pub fn plan(app: &App, edges: &Edges, policy: Policy) -> Vec<Action> {
    match &app.goal {
        Goal::Serve => plan_service(app, edges, policy),
        Goal::Rest => plan_end(app, edges, policy),
        Goal::Gone(leftovers) => {
            let mut actions = plan_end(app, edges, policy);
            if actions.is_empty() && nothing_runs(app) {
                actions.extend(leftovers.untold.iter().cloned().map(Action::Delete));
                if actions.is_empty() && !leftovers.awaited {
                    actions.push(Action::Remove);
                }
            }
            actions
        }
    }
}

/// For an app that is to serve.
fn plan_service(app: &App, edges: &Edges, policy: Policy) -> Vec<Action> {
    let find = |id| app.deployments.iter().find(|deployment| deployment.id == id);
    let current = app.routed.and_then(|routed| find(routed.deployment_id));

    if let Some(next) = newest_ready(app, current) {
        return vec![Action::Route(next.id)];
    }
    let mut actions = Vec::new();
    if let (Some(routed), Some(deployment)) = (app.routed, current)
        && deployment.state == DeploymentState::Routing
    {
        match verdict(deployment, routed, edges, policy) {
            Verdict::Wait => {}
            Verdict::Serves => actions.push(Action::Promote(deployment.id)),
            Verdict::Fails(reason) => {
                actions.push(Action::Fail(deployment.id, reason));
                actions.push(fallback(app, deployment).map_or(Action::Unroute, Action::Route));
                return actions;
            }
        }
    }
    let serving = current.filter(|d| d.state == DeploymentState::Live || !actions.is_empty());
    for deployment in &app.deployments {
        if overtaken_and_gone(deployment, current, serving) {
            actions.push(Action::Fail(deployment.id, INSTANCE_GONE.to_owned()));
        }
        retire(deployment, serving, &mut actions);
        stop_drained(deployment, edges, policy, &mut actions);
    }
    actions
        .extend(serving.filter(|serving| is_to_move(app, serving)).map(|serving| Action::Repeat(serving.id)));
    actions
}

/// Whether what serves has to move to another worker, and no newer deployment may do that by itself.
fn is_to_move(app: &App, serving: &Deployment) -> bool {
    let overtaken = |d: &Deployment| d.state.is_in_progress() && d.number > serving.number;
    serving.state == DeploymentState::Live
        && serving.instances.iter().any(|instance| instance.to_move)
        && !app.deployments.iter().any(overtaken)
}

/// For an app that is not to serve: out of the routes, then drained and stopped.
fn plan_end(app: &App, edges: &Edges, policy: Policy) -> Vec<Action> {
    if app.routed.is_some() {
        return vec![Action::Unroute];
    }
    let mut actions = Vec::new();
    for deployment in &app.deployments {
        if deployment.state.is_with_worker() && !deployment.called_off {
            actions.push(Action::Cancel(deployment.id));
        }
        if matches!(deployment.state, DeploymentState::Live | DeploymentState::Routing) {
            actions.push(Action::Retire(deployment.id));
        }
        drain_healthy(deployment, &mut actions);
        stop_drained(deployment, edges, policy, &mut actions);
    }
    actions
}

fn nothing_runs(app: &App) -> bool {
    app.deployments.iter().all(|d| d.instances.is_empty() && !d.state.is_with_worker())
}

/// The newest deployment that waits to be routed, if it is newer than the one that is.
fn newest_ready<'a>(app: &'a App, current: Option<&Deployment>) -> Option<&'a Deployment> {
    app.deployments
        .iter()
        .filter(|d| d.state == DeploymentState::Routing && has_healthy(d))
        .max_by_key(|d| d.number)
        .filter(|d| current.is_none_or(|current| d.number > current.number))
}

fn has_healthy(deployment: &Deployment) -> bool {
    deployment.instances.iter().any(|instance| instance.state == InstanceState::Healthy)
}

enum Verdict {
    Wait,
    Serves,
    Fails(String),
}

fn verdict(deployment: &Deployment, routed: Routed, edges: &Edges, policy: Policy) -> Verdict {
    if !has_healthy(deployment) {
        return Verdict::Fails(INSTANCE_GONE.to_owned());
    }
    let acked = |edge: &&Edge| edge.acked_generation >= routed.generation;
    let problem = edges.connected.iter().filter(acked).find_map(|edge| {
        let ours = |(id, _): &&(InstanceId, String)| deployment.instances.iter().any(|i| i.id == *id);
        edge.problems
            .iter()
            .find(ours)
            .map(|(_, why)| format!("edge {} cannot reach the new instance: {why}", edge.name))
    });
    if let Some(reason) = problem {
        return Verdict::Fails(reason);
    }
    let all_serve = edges.connected.iter().all(|edge| acked(&edge));
    if edges.declared == 0 || (all_serve && !edges.connected.is_empty()) {
        return Verdict::Serves;
    }
    if routed.age_ms >= policy.routing_timeout_ms {
        return Verdict::Fails(routing_timeout(edges, routed, policy));
    }
    Verdict::Wait
}

fn routing_timeout(edges: &Edges, routed: Routed, policy: Policy) -> String {
    let seconds = policy.routing_timeout_ms / 1_000;
    let silent = edges.connected.iter().find(|edge| edge.acked_generation < routed.generation);
    match silent {
        Some(edge) => format!("edge {} did not take the new routes within {seconds} s", edge.name),
        None => format!("no edge was connected for {seconds} s to take the new routes"),
    }
}

/// What the host names lead to when `failed` cannot be served: what they led to before, whether it is up or not.
fn fallback(app: &App, failed: &Deployment) -> Option<DeploymentId> {
    app.deployments
        .iter()
        .filter(|d| d.state == DeploymentState::Live && d.number < failed.number)
        .max_by_key(|d| d.number)
        .map(|d| d.id)
}

/// Whether it waits for a newer one that is on its way to the edges, and could not come into service should that fail.
fn overtaken_and_gone(
    deployment: &Deployment,
    current: Option<&Deployment>,
    serving: Option<&Deployment>,
) -> bool {
    deployment.state == DeploymentState::Routing
        && !has_healthy(deployment)
        && current.is_none_or(|current| current.id != deployment.id)
        && serving.is_none_or(|serving| serving.number < deployment.number)
}

/// Supersedes what is older than the serving deployment, and drains what must not be routed to any more.
fn retire(deployment: &Deployment, serving: Option<&Deployment>, actions: &mut Vec<Action>) {
    let overtaken = serving.is_some_and(|serving| deployment.number < serving.number)
        && matches!(deployment.state, DeploymentState::Live | DeploymentState::Routing);
    if overtaken {
        actions.push(Action::Supersede(deployment.id));
    }
    if overtaken || deployment.state.is_final() {
        drain_healthy(deployment, actions);
    }
}

fn drain_healthy(deployment: &Deployment, actions: &mut Vec<Action>) {
    let healthy = deployment.instances.iter().filter(|i| i.state == InstanceState::Healthy);
    actions.extend(healthy.map(|instance| Action::Drain(instance.id)));
}

fn stop_drained(deployment: &Deployment, edges: &Edges, policy: Policy, actions: &mut Vec<Action>) {
    for instance in &deployment.instances {
        let Some(draining) = instance.draining.filter(|_| instance.state == InstanceState::Draining) else {
            continue;
        };
        // An edge that is away, or a proxy that polls, cannot say that no request is left on it.
        let quiet = !edges.connected.is_empty()
            && edges.connected.len() >= edges.declared
            && edges.connected.iter().all(|edge| edge.drained_generation >= draining.generation);
        if quiet || draining.age_ms >= policy.drain_timeout_ms {
            actions.push(Action::Stop(instance.id));
        }
    }
}
