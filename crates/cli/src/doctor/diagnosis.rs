//! From what the control plane knows to what is wrong, hop by hop, and what to do. Pure.
//!
//! Invariant: of a way, nothing is said beyond its first hop that fails, since nothing is known there.

use crate::answers::{App, Edge, InstanceStats, Mesh, MeshNode, Worker};
use serde::Serialize;

/// After this long without a new handshake a session has ended, so that packets wait for the next one.
const HANDSHAKE_AGE_MAX_MS: u64 = 180_000;

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
    let is_silent =
        |name: &str| facts.workers.iter().any(|worker| worker.name == name && worker.state == "silent");
    let to_node = |node: &&MeshNode| match is_silent(&node.name) {
        true => silent(&node.name),
        false => to_node(node, facts.mesh.mtu),
    };
    let mut findings: Vec<Finding> = nodes.iter().map(to_node).collect();
    findings
        .extend(nodes.iter().filter(|node| node.role == "edge").flat_map(|edge| to_workers(edge, &nodes)));
    if let Some(app) = &facts.app {
        findings.extend(to_app(app));
        findings.extend(facts.edges.iter().filter(|edge| edge.connected).map(to_routes));
    }
    findings
}

fn silent(worker: &str) -> Finding {
    Finding::bad(
        &format!("control plane -> {worker}"),
        "it is connected and says nothing",
        "Its agent hangs, or its machine or the network does. systemd restarts an agent that hangs, within two minutes.",
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
    let Some(told) = edge.told.as_ref().filter(|_| edge.connected) else { return Vec::new() };
    let workers = nodes.iter().filter(|node| node.role == "worker" && node.connected);
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
        let way = if link.path == "direct" { "directly" } else { "by the control plane" };
        Some(Finding::good(&hop, way))
    };
    workers.filter_map(to_worker).collect()
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
