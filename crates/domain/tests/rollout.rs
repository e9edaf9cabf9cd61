//! The rollout's decisions, as a table of what is true and what is to be done, and as a whole rollout that is planned
//! step by step by something that forgets everything in between.

use uuid::Uuid;
use wisehosting_domain::{
    id::{DeploymentId, InstanceId},
    name::Label,
    rollout::{
        Action::{self, *},
        App, Deployment, Draining, Edge, Edges, Goal, Instance, Leftovers, Policy, Routed, plan,
    },
    state::{DeploymentState, InstanceState},
};

const POLICY: Policy = Policy { routing_timeout_ms: 30_000, drain_timeout_ms: 20_000 };

fn did(n: i32) -> DeploymentId {
    DeploymentId(Uuid::from_u128(n.try_into().expect("small")))
}

/// The one instance of deployment `n`.
fn iid(n: i32) -> InstanceId {
    InstanceId(Uuid::from_u128(1_000 + u128::try_from(n).expect("small")))
}

fn deployment(n: i32, state: DeploymentState, instance: InstanceState) -> Deployment {
    let instance = Instance { id: iid(n), state: instance, draining: None, to_move: false };
    Deployment { id: did(n), number: n, state, called_off: false, instances: vec![instance] }
}

fn live(n: i32) -> Deployment {
    deployment(n, DeploymentState::Live, InstanceState::Healthy)
}

fn routing(n: i32) -> Deployment {
    deployment(n, DeploymentState::Routing, InstanceState::Healthy)
}

fn building(n: i32) -> Deployment {
    deployment(n, DeploymentState::Building, InstanceState::Starting)
}

fn failed(n: i32) -> Deployment {
    deployment(n, DeploymentState::Failed, InstanceState::Healthy)
}

fn draining(n: i32, generation: u64, age_ms: u64) -> Deployment {
    let mut deployment = deployment(n, DeploymentState::Superseded, InstanceState::Draining);
    deployment.instances[0].draining = Some(Draining { generation, age_ms });
    deployment
}

fn routed(n: i32, generation: u64, age_ms: u64) -> Option<Routed> {
    Some(Routed { deployment_id: did(n), generation, age_ms })
}

fn app(routed: Option<Routed>, deployments: &[Deployment]) -> App {
    App { goal: Goal::Serve, routed, deployments: deployments.to_vec() }
}

fn edge(name: &str, acked: u64, drained: u64) -> Edge {
    Edge { name: name.to_owned(), acked_generation: acked, drained_generation: drained, problems: Vec::new() }
}

fn connected(edges: &[Edge]) -> Edges {
    Edges { declared: edges.len(), connected: edges.to_vec() }
}

fn steps(app: &App, edges: &Edges) -> Vec<Action> {
    plan(app, edges, POLICY)
}

#[test]
fn a_deployment_that_is_not_proven_is_left_alone() {
    assert_eq!(steps(&app(None, &[building(1)]), &connected(&[edge("a", 0, 0)])), []);
    assert_eq!(steps(&app(routed(1, 4, 9), &[live(1), building(2)]), &connected(&[edge("a", 4, 4)])), []);
}

#[test]
fn a_proven_deployment_is_switched_to() {
    let edges = connected(&[edge("a", 4, 4)]);
    assert_eq!(steps(&app(None, &[routing(1)]), &edges), [Route(did(1))]);
    assert_eq!(steps(&app(routed(1, 4, 9), &[live(1), routing(2)]), &edges), [Route(did(2))]);
}

#[test]
fn the_old_version_stays_until_every_connected_edge_serves_the_new_one() {
    let app = app(routed(2, 5, 9), &[live(1), routing(2)]);
    assert_eq!(steps(&app, &connected(&[edge("a", 5, 4), edge("b", 4, 4)])), []);
    assert_eq!(
        steps(&app, &connected(&[edge("a", 5, 4), edge("b", 6, 4)])),
        [Promote(did(2)), Supersede(did(1)), Drain(iid(1))]
    );
}

#[test]
fn an_edge_that_is_away_does_not_hold_up_the_others() {
    let app = app(routed(1, 5, 9), &[routing(1)]);
    let edges = Edges { declared: 2, connected: vec![edge("a", 5, 4)] };
    assert_eq!(steps(&app, &edges), [Promote(did(1))]);
}

#[test]
fn without_any_edge_a_deployment_waits_and_then_fails() {
    let away = Edges { declared: 1, connected: Vec::new() };
    let deployments = [live(1), routing(2)];
    assert_eq!(steps(&app(routed(2, 5, 29_999), &deployments), &away), []);
    let why = "no edge was connected for 30 s to take the new routes".to_owned();
    assert_eq!(steps(&app(routed(2, 5, 30_000), &deployments), &away), [Fail(did(2), why), Route(did(1))]);
}

#[test]
fn a_platform_without_edges_serves_at_once_and_drains_for_as_long_as_it_may() {
    let edges = Edges::default();
    assert_eq!(steps(&app(routed(1, 5, 0), &[routing(1)]), &edges), [Promote(did(1))]);
    let of = |age_ms| app(routed(2, 5, 0), &[live(2), draining(1, 5, age_ms)]);
    assert_eq!(steps(&of(19_999), &edges), [], "a proxy that polls may not know yet");
    assert_eq!(steps(&of(20_000), &edges), [Stop(iid(1))]);
}

#[test]
fn an_edge_that_never_answers_is_named() {
    let edges = connected(&[edge("a", 5, 5), edge("b", 4, 4)]);
    let why = "edge b did not take the new routes within 30 s".to_owned();
    assert_eq!(
        steps(&app(routed(2, 5, 30_000), &[live(1), routing(2)]), &edges),
        [Fail(did(2), why), Route(did(1))]
    );
}

#[test]
fn an_edge_that_cannot_reach_the_new_instance_fails_the_deployment() {
    let why = "edge a cannot reach the new instance: connection refused".to_owned();
    let mut edges = connected(&[edge("a", 5, 4)]);
    edges.connected[0].problems = vec![(iid(2), "connection refused".to_owned())];

    let with_fallback = app(routed(2, 5, 9), &[live(1), routing(2)]);
    assert_eq!(steps(&with_fallback, &edges), [Fail(did(2), why.clone()), Route(did(1))]);
    let without = app(routed(2, 5, 9), &[routing(2)]);
    assert_eq!(steps(&without, &edges), [Fail(did(2), why), Unroute]);
    // The trouble of another app's instance, or of an older table, is not this deployment's.
    edges.connected[0].problems = vec![(iid(7), "connection refused".to_owned())];
    assert_eq!(steps(&without, &edges), [Promote(did(2))]);
    edges.connected[0] = Edge { problems: vec![(iid(2), "old".to_owned())], ..edge("a", 4, 4) };
    assert_eq!(steps(&without, &edges), []);
}

#[test]
fn what_failed_is_drained_once_it_is_not_routed() {
    let edges = connected(&[edge("a", 6, 6)]);
    assert_eq!(steps(&app(routed(1, 6, 9), &[live(1), failed(2)]), &edges), [Drain(iid(2))]);
    assert_eq!(steps(&app(None, &[failed(2)]), &edges), [Drain(iid(2))]);
}

#[test]
fn a_deployment_that_is_overtaken_gives_way() {
    let edges = connected(&[edge("a", 5, 5)]);
    // The newest of several goes first, also past one that is on its way to the edges.
    assert_eq!(steps(&app(routed(1, 4, 9), &[live(1), routing(3), routing(2)]), &edges), [Route(did(3))]);
    assert_eq!(steps(&app(routed(2, 9, 9), &[live(1), routing(2), routing(3)]), &edges), [Route(did(3))]);
    assert_eq!(
        steps(&app(routed(3, 5, 9), &[live(1), routing(2), routing(3)]), &edges),
        [Promote(did(3)), Supersede(did(1)), Drain(iid(1)), Supersede(did(2)), Drain(iid(2))]
    );
    // One that is proven only after a newer one serves never comes into service.
    assert_eq!(
        steps(&app(routed(3, 5, 9), &[routing(2), live(3)]), &edges),
        [Supersede(did(2)), Drain(iid(2))]
    );
    // One that is still being built is its worker's.
    assert_eq!(steps(&app(routed(3, 5, 9), &[building(2), live(3)]), &edges), []);
}

#[test]
fn a_deployment_that_can_no_longer_come_into_service_fails() {
    let edges = connected(&[edge("a", 5, 5)]);
    let gone = deployment(1, DeploymentState::Routing, InstanceState::Failed);
    let fails = |plan: Vec<Action>| matches!(&plan[..], [Fail(id, _)] if *id == did(1));
    assert!(fails(steps(&app(None, std::slice::from_ref(&gone)), &edges)));
    assert!(fails(steps(&app(routed(2, 6, 9), &[gone.clone(), routing(2)]), &edges)));
    assert_eq!(steps(&app(routed(2, 5, 9), &[gone, live(2)]), &edges), [Supersede(did(1))]);
}

#[test]
fn a_failed_switch_goes_back_to_what_was_live_even_if_that_is_down() {
    let edges = Edges { declared: 1, connected: Vec::new() };
    let down = deployment(1, DeploymentState::Live, InstanceState::Failed);
    let plan = steps(&app(routed(2, 5, 30_000), &[down, routing(2)]), &edges);
    assert!(matches!(&plan[..], [Fail(_, _), Route(back)] if *back == did(1)), "{plan:?}");
}

#[test]
fn an_overtaken_deployment_is_tried_when_the_newer_one_fails() {
    let edges = connected(&[edge("a", 6, 6)]);
    assert_eq!(steps(&app(routed(1, 6, 9), &[live(1), routing(2), failed(3)]), &edges), [Route(did(2))]);
}

#[test]
fn an_instance_is_stopped_when_no_request_is_left_on_it() {
    let of = |age_ms| app(routed(2, 5, 9), &[draining(1, 5, age_ms), live(2)]);
    let busy = connected(&[edge("a", 6, 5), edge("b", 6, 4)]);
    assert_eq!(steps(&of(19_999), &busy), []);
    assert_eq!(steps(&of(20_000), &busy), [Stop(iid(1))]);
    let quiet = connected(&[edge("a", 6, 5), edge("b", 6, 6)]);
    assert_eq!(steps(&of(0), &quiet), [Stop(iid(1))]);
    let away = Edges { declared: 2, connected: Vec::new() };
    assert_eq!(steps(&of(0), &away), [], "nobody can say that no request is left");
    assert_eq!(steps(&of(20_000), &away), [Stop(iid(1))]);
}

#[test]
fn an_edge_that_is_away_may_still_serve_the_old_instance() {
    let cut_off = Edges { declared: 2, connected: vec![edge("a", 6, 6)] };
    let app = |age_ms| app(routed(2, 5, 9), &[draining(1, 5, age_ms), live(2)]);
    assert_eq!(steps(&app(19_999), &cut_off), []);
    assert_eq!(steps(&app(20_000), &cut_off), [Stop(iid(1))]);
}

#[test]
fn a_deployment_whose_instance_is_gone_is_not_promoted() {
    let gone = deployment(2, DeploymentState::Routing, InstanceState::Failed);
    let plan = steps(&app(routed(2, 5, 9), &[live(1), gone]), &connected(&[edge("a", 5, 5)]));
    assert!(matches!(&plan[..], [Fail(id, _), Route(back)] if (*id, *back) == (did(2), did(1))), "{plan:?}");
}

#[test]
fn an_app_that_is_not_to_serve_is_unrouted_drained_and_stopped() {
    let edges = connected(&[edge("a", 5, 5)]);
    for goal in [Goal::Rest, Goal::Gone(Leftovers::default())] {
        let ending =
            |routed, deployments: &[Deployment]| App { goal: goal.clone(), ..app(routed, deployments) };
        assert_eq!(steps(&ending(routed(1, 4, 9), &[live(1), building(2)]), &edges), [Unroute]);
        assert_eq!(
            steps(&ending(None, &[live(1), building(2)]), &edges),
            [Retire(did(1)), Drain(iid(1)), Cancel(did(2))]
        );
        let called_off = Deployment { called_off: true, ..building(2) };
        assert_eq!(steps(&ending(None, &[called_off]), &edges), [], "its worker cleans up");
        let never_routed_again = [Retire(did(1)), Drain(iid(1))];
        assert_eq!(steps(&ending(None, &[routing(1)]), &edges), never_routed_again);
        assert_eq!(steps(&ending(None, &[draining(1, 5, 0)]), &edges), [Stop(iid(1))]);
        let stopping = deployment(1, DeploymentState::Superseded, InstanceState::Stopping);
        assert_eq!(steps(&ending(None, &[stopping]), &edges), []);
    }
}

#[test]
fn a_deleted_app_is_forgotten_once_no_worker_has_anything_of_it() {
    let edges = connected(&[edge("a", 5, 5)]);
    let worker: Label = "worker-1".parse().expect("a label");
    let deleted = |leftovers| App { goal: Goal::Gone(leftovers), ..app(None, &[]) };
    let untold = Leftovers { untold: vec![worker.clone()], awaited: false };
    assert_eq!(steps(&deleted(untold), &edges), [Delete(worker)]);
    assert_eq!(steps(&deleted(Leftovers { untold: Vec::new(), awaited: true }), &edges), []);
    assert_eq!(steps(&deleted(Leftovers::default()), &edges), [Remove]);
    let resting = App { goal: Goal::Rest, ..app(None, &[]) };
    assert_eq!(steps(&resting, &edges), [], "a stopped app is kept");
}

/// Carries out what was planned, as the store does.
struct World {
    app: App,
    edges: Edges,
    generation: u64,
    stopped: Vec<InstanceId>,
}

impl World {
    fn step(&mut self) -> Vec<Action> {
        let actions = steps(&self.app, &self.edges);
        for action in &actions {
            self.carry_out(action);
        }
        actions
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Route(id) => {
                self.generation += 1;
                self.app.routed = Some(Routed { deployment_id: *id, generation: self.generation, age_ms: 0 });
            }
            Unroute => {
                self.generation += 1;
                self.app.routed = None;
            }
            Promote(id) => self.deployment(*id).state = DeploymentState::Live,
            Fail(id, _) => self.deployment(*id).state = DeploymentState::Failed,
            Supersede(id) => self.deployment(*id).state = DeploymentState::Superseded,
            Drain(id) => {
                let generation = self.generation;
                let instance = self.instance(*id);
                instance.state = InstanceState::Draining;
                instance.draining = Some(Draining { generation, age_ms: 0 });
            }
            Stop(id) => {
                self.stopped.push(*id);
                self.instance(*id).state = InstanceState::Stopped;
            }
            Repeat(_) | Cancel(_) | Retire(_) | Delete(_) | Remove => unreachable!("the app is to serve"),
        }
    }

    fn deployment(&mut self, id: DeploymentId) -> &mut Deployment {
        self.app.deployments.iter_mut().find(|d| d.id == id).expect("known deployment")
    }

    fn instance(&mut self, id: InstanceId) -> &mut Instance {
        let mut all = self.app.deployments.iter_mut().flat_map(|d| &mut d.instances);
        all.find(|i| i.id == id).expect("known instance")
    }

    fn edge_takes_the_table(&mut self) {
        let generation = self.generation;
        self.edges.connected[0].acked_generation = generation;
    }

    fn requests_end(&mut self) {
        let generation = self.generation;
        self.edges.connected[0].drained_generation = generation;
    }
}

#[test]
fn a_redeploy_goes_through_all_its_steps_and_comes_to_rest() {
    let mut world = World {
        app: app(routed(1, 4, 9), &[live(1), routing(2)]),
        edges: connected(&[edge("a", 4, 4)]),
        generation: 4,
        stopped: Vec::new(),
    };
    assert_eq!(world.step(), [Route(did(2))]);
    assert_eq!(world.step(), [], "the edge has not answered");
    world.edge_takes_the_table();
    assert_eq!(world.step(), [Promote(did(2)), Supersede(did(1)), Drain(iid(1))]);
    assert_eq!(world.step(), [], "requests are running on the old instance");
    world.requests_end();
    assert_eq!(world.step(), [Stop(iid(1))]);
    assert_eq!(world.step(), []);
    assert_eq!(world.stopped, [iid(1)]);
}

#[test]
fn a_failed_switch_goes_back_and_comes_to_rest() {
    let mut world = World {
        app: app(routed(1, 4, 9), &[live(1), routing(2)]),
        edges: connected(&[edge("a", 4, 4)]),
        generation: 4,
        stopped: Vec::new(),
    };
    world.step();
    world.edge_takes_the_table();
    world.edges.connected[0].problems = vec![(iid(2), "refused".to_owned())];
    assert_eq!(world.step().last(), Some(&Route(did(1))));
    world.edges.connected[0].problems.clear();
    assert_eq!(world.step(), [Drain(iid(2))]);
    world.edge_takes_the_table();
    world.requests_end();
    assert_eq!(world.step(), [Stop(iid(2))]);
    assert_eq!(world.step(), []);
    assert_eq!(world.app.routed.map(|routed| routed.deployment_id), Some(did(1)));
}

#[test]
fn what_serves_on_a_worker_that_is_being_emptied_is_repeated_once_nothing_newer_is_under_way() {
    let edges = connected(&[edge("a", 4, 4)]);
    let leaving = |mut deployment: Deployment| {
        deployment.instances[0].to_move = true;
        deployment
    };
    for (deployments, expected) in [
        (vec![leaving(live(1))], vec![Repeat(did(1))]),
        (vec![live(1)], vec![]),
        (vec![leaving(live(1)), building(2)], vec![]),
        (vec![leaving(live(1)), leaving(routing(2))], vec![Route(did(2))]),
        (vec![leaving(failed(1)), live(2)], vec![Drain(iid(1))]),
    ] {
        let number = if deployments.len() > 1 && deployments[0].state.is_final() { 2 } else { 1 };
        assert_eq!(steps(&app(routed(number, 4, 9), &deployments), &edges), expected, "{deployments:?}");
    }
    let stopped = App {
        goal: Goal::Rest,
        ..app(None, &[leaving(deployment(1, DeploymentState::Stopped, InstanceState::Healthy))])
    };
    assert_eq!(steps(&stopped, &edges), [Drain(iid(1))]);
}
