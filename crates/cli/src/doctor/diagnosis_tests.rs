//! What is found, for each hop that can fail.

use super::*;
use serde_json::{Value, json};

/// A platform in which all is well.
fn all_is_well() -> Value {
    let node = |name: &str, role: &str, other: &str| {
        json!({
            "name": name, "role": role, "address": "10.50.0.11", "connected": true,
            "tunnel": { "handshake_age_ms": 20_000 },
            "told": {
                "age_ms": 3_000, "current": true, "mtu": 1420,
                "links": [{
                    "name": other, "path": "direct", "handshake_age_ms": 30_000, "round_trip_us": 400,
                    "received_bytes": 1, "sent_bytes": 1
                }],
            },
        })
    };
    json!({
        "mesh": {
            "mtu": 1420,
            "nodes": [node("worker-1", "worker", "proxy-1"), node("proxy-1", "edge", "worker-1")],
        },
        "workers": [{
            "name": "worker-1", "state": "connected", "address": "10.50.0.11", "memory_bytes": 1, "memory_bytes_used": 1,
            "cpu_millis": 1, "cpu_millis_used": 1, "instances": 1, "draining": false, "usage": null
        }],
        "edges": [{
            "name": "proxy-1", "connected": true, "address": "10.50.0.30", "acked_generation": 4, "current": true
        }],
        "app": { "name": "blog", "state": "live", "violation": null },
        "instances": [{ "instance_id": "1", "worker": "worker-1", "state": "healthy" }],
    })
}

fn found(facts: &Value) -> Vec<Finding> {
    let mut app = json!({
        "url": "", "urls": [], "live": null, "latest": null, "usage": null,
        "settings": {
            "repository": "", "branch": null, "login": null,
            "limits": { "memory_bytes": 1, "cpu_millis": 1, "pids": 1, "bandwidth_bits_per_s": null, "disk_bytes": null }
        },
    });
    app.as_object_mut().unwrap().extend(facts["app"].as_object().unwrap().clone());
    let instances = facts["instances"].as_array().unwrap().iter().map(|instance| {
        let mut instance = instance.clone();
        instance["cpu_millis_max"] = json!(1);
        instance["memory_bytes_max"] = json!(1);
        serde_json::from_value(instance).unwrap()
    });
    diagnose(&Facts {
        mesh: serde_json::from_value(facts["mesh"].clone()).unwrap(),
        workers: serde_json::from_value(facts["workers"].clone()).unwrap(),
        edges: serde_json::from_value(facts["edges"].clone()).unwrap(),
        app: Some(AppFacts { app: serde_json::from_value(app).unwrap(), instances: instances.collect() }),
    })
}

#[test]
fn where_all_is_well_every_hop_is_named_and_good() {
    let findings = found(&all_is_well());
    let hops: Vec<&str> = findings.iter().map(|finding| finding.hop.as_str()).collect();
    let expected = [
        "control plane -> worker-1",
        "control plane -> proxy-1",
        "proxy-1 -> worker-1",
        "worker-1 -> blog",
        "visitors -> proxy-1",
    ];
    assert_eq!(hops, expected);
    assert!(findings.iter().all(|finding| finding.good && finding.repair.is_none()), "{findings:?}");
}

#[test]
fn the_first_hop_that_fails_is_named_with_its_repair() {
    for (pointer, value, hop, what, repair) in [
        (
            "/mesh/nodes/0/connected",
            json!(false),
            "control plane -> worker-1",
            "its tunnel works",
            "journalctl",
        ),
        ("/workers/0/state", json!("silent"), "control plane -> worker-1", "says nothing", "restarts"),
        ("/mesh/nodes/1/told/age_ms", json!(26_000), "control plane -> proxy-1", "says nothing", "firewalls"),
        ("/mesh/nodes/0/told/mtu", json!(1380), "control plane -> worker-1", "packets of 1380", "mesh.mtu"),
        ("/mesh/nodes/1/told/current", json!(false), "control plane -> proxy-1", "named last", "log"),
        (
            "/mesh/nodes/1/told/links/0/name",
            json!("x"),
            "proxy-1 -> worker-1",
            "does not know",
            "[[mesh.peers]]",
        ),
        ("/instances/0/state", json!("failed"), "worker-1 -> blog", "failed", "wisehosting logs blog"),
        ("/app/state", json!("down"), "worker-1 -> blog", "does not run", "wisehosting logs blog"),
        ("/instances", json!([]), "blog", "no instance; it is live", "wisehosting deployments blog"),
        ("/edges/0/current", json!(false), "visitors -> proxy-1", "not the newest", "log"),
    ] {
        let mut facts = all_is_well();
        *facts.pointer_mut(pointer).unwrap() = value;
        let findings = found(&facts);
        let bad: Vec<&Finding> = findings.iter().filter(|finding| !finding.good).collect();
        let [bad] = bad[..] else { panic!("{pointer}: {findings:?}") };
        assert_eq!(bad.hop, hop);
        assert!(bad.what.contains(what), "{}", bad.what);
        assert!(bad.repair.as_ref().unwrap().contains(repair), "{:?}", bad.repair);
    }
}

#[test]
fn a_machine_that_is_away_is_told_from_one_that_is_not_reached() {
    for (tunnel, what) in [
        (json!(null), "no peer of this name"),
        (json!({ "handshake_age_ms": null }), "no handshake"),
        (json!({ "handshake_age_ms": 200_000 }), "no handshake"),
        (json!({ "handshake_age_ms": 2_000 }), "its agent is not connected"),
    ] {
        let mut facts = all_is_well();
        facts["mesh"]["nodes"][0]["connected"] = json!(false);
        facts["mesh"]["nodes"][0]["tunnel"] = tunnel;
        let findings = found(&facts);
        assert!(findings[0].what.contains(what), "{:?}", findings[0]);
        assert!(
            findings.iter().all(|finding| finding.hop != "proxy-1 -> worker-1"),
            "nothing is known beyond"
        );
    }
}

#[test]
fn a_direct_way_without_a_handshake_is_named() {
    let mut facts = all_is_well();
    const LINK: &str = "/mesh/nodes/1/told/links/0";
    for field in ["handshake_age_ms", "round_trip_us"] {
        facts.pointer_mut(LINK).unwrap()[field] = json!(null);
    }
    let finding = found(&facts).into_iter().find(|finding| finding.hop == "proxy-1 -> worker-1").unwrap();
    assert!(!finding.good && finding.what.contains("no handshake"));
    facts.pointer_mut(LINK).unwrap()["path"] = json!("hub");
    assert!(found(&facts).iter().all(|finding| finding.good));
}

#[test]
fn a_way_on_which_neither_hears_the_other_is_named() {
    for path in ["hub", "direct"] {
        neither_hears_on(path);
    }
}

fn neither_hears_on(path: &str) {
    let mut facts = all_is_well();
    let hub = json!({
        "name": "control-plane", "path": "direct", "handshake_age_ms": 1, "round_trip_us": 400,
        "received_bytes": 1, "sent_bytes": 1
    });
    for node in [0, 1] {
        let links = facts.pointer_mut(&format!("/mesh/nodes/{node}/told/links")).unwrap();
        links[0]["path"] = json!(path);
        links[0]["round_trip_us"] = json!(null);
        links.as_array_mut().unwrap().push(hub.clone());
    }
    let finding = found(&facts).into_iter().find(|finding| !finding.good).unwrap();
    assert_eq!(finding.hop, "proxy-1 -> worker-1");
    assert!(finding.what.contains("neither hears the other"), "{}", finding.what);
    // The worker gets an answer: what is silent is a firewall of its own.
    facts["mesh"]["nodes"][0]["told"]["links"][0]["round_trip_us"] = json!(400);
    assert!(found(&facts).iter().all(|finding| finding.good));
}

#[test]
fn a_control_plane_that_does_not_answer_is_the_hop_that_fails() {
    let why = "cannot be reached".to_owned();
    for (silence, repair) in [
        (Silence::NoConnection(why.clone()), "systemctl status wisehosting-control-plane"),
        (Silence::TimedOut(why.clone()), "firewall"),
        (Silence::Failing(why), "postgresql"),
    ] {
        let finding = no_answer(&silence);
        assert_eq!((&*finding.hop, finding.good), ("this machine -> control plane", false));
        assert!(finding.what.starts_with("cannot be reached; apps are served meanwhile"), "{}", finding.what);
        assert!(finding.repair.unwrap().contains(repair));
    }
}
