//! From what the control plane knows to what is wrong, hop by hop, and what to do. Pure.
//!
//! Invariant: of a way, nothing is said beyond its first hop that fails, since nothing is known there.

use crate::answers::{App, Edge, InstanceStats, Mesh, MeshNode, Worker};
use serde::Serialize;

/// After this long without a new handshake a session has ended, so that packets wait for the next one.
const HANDSHAKE_AGE_MAX_MS: u64 = 180_000;

/// Nodes say what they see every ten seconds; one that has missed two is not heard.
const TOLD_AGE_MAX_MS: u64 = 25_000;

/// What is known.
pub(crate) struct Facts {
    pub(crate) mesh: Mesh,
    pub(crate) workers: Vec<Worker>,
    pub(crate) edges: Vec<Edge>,
    /// The app whose way is walked, if one is.
    pub(crate) app: Option<AppFacts>,
}

/// What is known of one app.
pub(crate) struct AppFacts {
    pub(crate) app: App,
    pub(crate) instances: Vec<InstanceStats>,
}

/// What there is to say of one hop.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Such as `control plane -> worker-1`.
    pub(crate) hop: String,
    pub(crate) good: bool,
    pub(crate) what: String,
    /// What to do, if it fails.
    pub(crate) repair: Option<String>,
}

impl Finding {
    fn good(hop: &str, what: impl Into<String>) -> Self {
        Self { hop: hop.to_owned(), good: true, what: what.into(), repair: None }
    }

    fn bad(hop: &str, what: impl Into<String>, repair: impl Into<String>) -> Self {
        Self { hop: hop.to_owned(), good: false, what: what.into(), repair: Some(repair.into()) }
    }
}

/// Why the control plane says nothing of the mesh: what happened, for people.
pub(crate) enum Silence {
    /// There is no connection to it.
    NoConnection(String),
    /// Nothing came from it in time.
    TimedOut(String),
    /// It answers that it cannot.
    Failing(String),
}

/// What there is to say where the control plane itself does not answer: nothing is known beyond.
pub(crate) fn no_answer(silence: &Silence) -> Finding {
    let (why, repair) = match silence {
        Silence::NoConnection(why) => (
            why,
            "Is the address right (--server)? On its machine: systemctl status wisehosting-control-plane, and the same of \
             what ends TLS in front of it.",
        ),
        Silence::TimedOut(why) => (
            why,
            "Is its machine on, and does a firewall let this one through? There: systemctl status wisehosting-control-plane; \
             systemd restarts one that hangs.",
        ),
        Silence::Failing(why) => {
            (why, "On its machine: systemctl status postgresql; journalctl --unit wisehosting-control-plane.")
        }
    };
    let what =
        format!("{why}; apps are served meanwhile as they were, and nothing is known of the other hops");
    Finding::bad("this machine -> control plane", what, repair)
}

/// The hops from the control plane to the machines; with an app, to those that it needs, and on to it.
pub(crate) fn diagnose(facts: &Facts) -> Vec<Finding> {
    let workers = facts.app.as_ref().map(|facts| {
        let workers = facts.instances.iter().map(|instance| instance.worker.as_str());
        workers.collect::<Vec<_>>()
    });
    let needed = |node: &&MeshNode| {
        node.role == "edge" || workers.as_ref().is_none_or(|workers| workers.contains(&node.name.as_str()))
    };
    let nodes: Vec<&MeshNode> = facts.mesh.nodes.iter().filter(needed).collect();
    let is_silent = |node: &MeshNode| {
        let is_old = node.told.as_ref().is_some_and(|told| told.age_ms > TOLD_AGE_MAX_MS);
        let told_of = facts.workers.iter().any(|worker| worker.name == node.name && worker.state == "silent");
        node.connected && (is_old || told_of)
    };
    let to_node = |node: &&MeshNode| match is_silent(node) {
        true => silent(&node.name),
        false => to_node(node, facts.mesh.mtu),
    };
    let mut findings: Vec<Finding> = nodes.iter().map(to_node).collect();
    let heard: Vec<&MeshNode> = nodes.into_iter().filter(|node| node.connected && !is_silent(node)).collect();
    findings
        .extend(heard.iter().filter(|node| node.role == "edge").flat_map(|edge| to_workers(edge, &heard)));
    if let Some(app) = &facts.app {
        findings.extend(to_app(app));
        findings.extend(facts.edges.iter().filter(|edge| edge.connected).map(to_routes));
    }
    findings
}

fn silent(node: &str) -> Finding {
    Finding::bad(
        &format!("control plane -> {node}"),
        "it is connected and says nothing",
        "Its machine is off, or UDP does not pass both ways between it and here: ping it, and look at both firewalls. Or its \
         agent hangs: systemd restarts one, within two minutes.",
    )
}

fn to_node(node: &MeshNode, mtu: Option<u32>) -> Finding {
    let hop = format!("control plane -> {}", node.name);
    let age = node.tunnel.as_ref().map(|tunnel| tunnel.handshake_age_ms);
    let fresh = matches!(age, Some(Some(age)) if age <= HANDSHAKE_AGE_MAX_MS);
    if !node.connected {
        return match age {
            None => Finding::bad(
                &hop,
                "it is not connected, and no peer of this name is declared on the control plane",
                format!("Add a [[mesh.peers]] named {} to the control plane's configuration.", node.name),
            ),
            Some(_) if fresh => Finding::bad(
                &hop,
                "its tunnel works, but its agent is not connected",
                "Look at its agent there: systemctl status, journalctl. Name, API key and the clock must be right.",
            ),
            Some(_) => Finding::bad(
                &hop,
                "there is no handshake",
                format!(
                    "Is the machine on? Does UDP reach it from here, and here from it? Compare both public keys; its \
                     address must be {}.",
                    node.address
                ),
            ),
        };
    }
    let Some(told) = &node.told else { return Finding::good(&hop, "connected") };
    if let Some(mtu) = mtu.filter(|mtu| *mtu != told.mtu) {
        let what = format!("its tunnels take packets of {} bytes, those here of {mtu}", told.mtu);
        return Finding::bad(
            &hop,
            what,
            "Set mesh.mtu to the smaller one on both, or large transfers stall.",
        );
    }
    if !told.current {
        let what = "it does not speak with the nodes that it was named last";
        return Finding::bad(&hop, what, "Its log says why. Restart its agent.");
    }
    Finding::good(&hop, "connected")
}

fn to_workers(edge: &MeshNode, nodes: &[&MeshNode]) -> Vec<Finding> {
    let Some(told) = &edge.told else { return Vec::new() };
    let workers = nodes.iter().filter(|node| node.role == "worker");
    let to_worker = |worker: &&MeshNode| {
        let hop = format!("{} -> {}", edge.name, worker.name);
        let Some(link) = told.links.iter().find(|link| link.name == worker.name) else {
            // Something else may have brought both into the mesh.
            return (!told.links.is_empty()).then(|| {
                let repair = format!(
                    "Add a [[mesh.peers]] named {} with its public key to the control plane's configuration.",
                    worker.name
                );
                Finding::bad(&hop, "the proxy does not know the worker", repair)
            });
        };
        let stale = link.handshake_age_ms.is_none_or(|age| age > HANDSHAKE_AGE_MAX_MS);
        if link.path == "direct" && stale && link.round_trip_us.is_none() {
            let repair = "Does UDP reach the worker's endpoint from the proxy? Compare the public keys.";
            return Some(Finding::bad(&hop, "there is no handshake", repair));
        }
        let is_direct = link.path == "direct";
        let way = if is_direct { "directly" } else { "by the control plane" };
        if neither_hears(edge, worker) {
            let repair = match is_direct {
                true => "Let UDP pass both ways between the two; compare the public keys.",
                false => {
                    "On the control plane, let forwarded packets pass from its mesh interface to itself; or let UDP pass \
                          between the two."
                }
            };
            let repair = format!(
                "{repair} (Firewalls that drop connections to port 9 in silence, on both, look the same.)"
            );
            return Some(Finding::bad(&hop, format!("neither hears the other {way}"), repair));
        }
        Some(Finding::good(&hop, way))
    };
    workers.filter_map(to_worker).collect()
}

/// Whether no packet of one came back from the other, though others answer both.
fn neither_hears(one: &MeshNode, other: &MeshNode) -> bool {
    let hears_others_only = |of: &MeshNode, not: &MeshNode| {
        let links = of.told.iter().flat_map(|told| &told.links);
        let (to_it, to_others): (Vec<_>, Vec<_>) = links.partition(|link| link.name == not.name);
        to_it.iter().all(|link| link.round_trip_us.is_none())
            && to_others.iter().any(|link| link.round_trip_us.is_some())
    };
    hears_others_only(one, other) && hears_others_only(other, one)
}

fn to_app(AppFacts { app, instances }: &AppFacts) -> Vec<Finding> {
    if instances.is_empty() {
        let why = app.latest.as_ref().and_then(|latest| latest.message.clone());
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        let repair = format!("wisehosting deployments {0}; wisehosting logs {0}", app.name);
        return vec![Finding::bad(&app.name, format!("no instance; it is {}{why}", app.state), repair)];
    }
    let instances = instances.iter().map(|instance| {
        let hop = format!("{} -> {}", instance.worker, app.name);
        match &app.violation {
            _ if instance.state != "healthy" && instance.state != "draining" => {
                let what = format!("its instance is {}", instance.state);
                Finding::bad(&hop, what, format!("wisehosting logs {}", app.name))
            }
            Some(violation) => {
                Finding::bad(&hop, violation.message.clone(), "Deploy it again, with a higher limit.")
            }
            None if app.state == "down" => {
                Finding::bad(&hop, "it does not run", format!("wisehosting logs {}", app.name))
            }
            None => Finding::good(&hop, format!("its instance is {}", instance.state)),
        }
    });
    instances.collect()
}

fn to_routes(edge: &Edge) -> Finding {
    let hop = format!("visitors -> {}", edge.name);
    if edge.current {
        Finding::good(&hop, format!("it serves route table {}, the newest", edge.acked_generation))
    } else {
        let what = format!("it serves route table {}, which is not the newest", edge.acked_generation);
        Finding::bad(&hop, what, "Its log says why it does not take the newest one.")
    }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
