//! Whom agents are told of in the mesh.

use std::{path::Path, sync::Arc};

use serde::Deserialize;
use sqlx::PgPool;
use tokio::sync::watch;
use wisehosting_control_plane::{config::JoinConfig, mesh, nodes::Role};
use wisehosting_node::{
    config,
    mesh::{MeshConfig, PeerSight, PeerStatus, Sight},
};
use wisehosting_protocol::{
    message::HubMessage,
    payload::{MeshLink, MeshPath, MeshPeers, MeshStatus},
};
use wisehosting_store::MIGRATOR;

use crate::{
    channel::Raw,
    platform::{Platform, label},
};

const HUB: &str = "hA4X0MTUcPyz0PV1RdTDkhHkl5xiYLrzcuiYpiEWvFI=";
const WORKER: &str = "tWwDjMGWsHGtHzMXpfZBSwSyMFeYXaUWfhJ0rSy8Hm8=";
const PROXY: &str = "Zk0wmnTWh8bYbQXz0kNf0vSYF9UqFqPq4yFkU0o3mVU=";
const NEXT: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
const STRANGER: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// The control plane's interface with a worker, a proxy and somebody who is neither. Worker-2 is not in the mesh.
fn interface() -> MeshConfig {
    #[derive(Deserialize)]
    struct Whole {
        mesh: MeshConfig,
    }
    let peer = |name: &str, key: &str, number: u8| {
        format!(
            "[[mesh.peers]]\nname = \"{name}\"\npublic_key = \"{key}\"\nendpoint = \"198.51.100.{number}:51821\"\n\
             allowed_ips = [\"10.50.0.{number}/32\"]\n"
        )
    };
    let text = format!(
        "[mesh]\naddress = \"10.50.0.1/24\"\n{}{}{}",
        peer("worker-1", WORKER, 11),
        peer("proxy-1", PROXY, 30),
        peer("stranger", STRANGER, 99)
    );
    let whole: Whole = config::parse(Path::new("test.toml"), &text, []).unwrap();
    whole.mesh
}

/// The control plane's own interface heard the proxy at this address, so long ago.
fn heard(endpoint: &str, age_s: u64) -> Sight {
    let status = PeerStatus {
        endpoint: Some(endpoint.parse().unwrap()),
        last_handshake_age: Some(std::time::Duration::from_secs(age_s)),
        ..PeerStatus::default()
    };
    let public_key = PROXY.parse().unwrap();
    let peer =
        PeerSight { name: label("proxy-1"), public_key, address: None, direct: true, status: Some(status) };
    Sight { peers: vec![peer], ..Sight::default() }
}

async fn told(raw: &mut Raw) -> MeshPeers {
    loop {
        match raw.receive().await {
            Some(HubMessage::MeshPeers(set)) => return set,
            Some(_) => {}
            None => panic!("the hub has closed the connection"),
        }
    }
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn agents_are_told_of_each_other_and_of_where_they_went(pool: PgPool) {
    let change = |state: &mut wisehosting_control_plane::state::AppState| {
        Arc::get_mut(&mut state.config).unwrap().mesh = Some(interface());
    };
    let platform = Platform::start_with(pool, change).await;
    let (seen, sight) = watch::channel(Sight::default());
    let telling = tokio::spawn(mesh::tell(platform.state.clone(), HUB.parse().unwrap(), sight));

    let mut worker = Raw::registered(&platform).await;
    let first = told(&mut worker).await;
    assert_eq!(first.hub, HUB);
    let [proxy] = &first.peers[..] else { panic!("{first:?}") };
    assert_eq!((proxy.name.as_str(), &*proxy.public_key), ("proxy-1", PROXY));
    assert_eq!(proxy.address.to_string(), "10.50.0.30", "as the node is declared");
    assert_eq!(proxy.endpoint.unwrap().to_string(), "198.51.100.30:51821", "as the peer is declared");

    // It speaks from elsewhere; what was long ago is not where it is.
    seen.send_replace(heard("192.0.2.7:40000", 600));
    seen.send_replace(heard("192.0.2.8:40000", 5));
    let second = told(&mut worker).await;
    assert_eq!(second.peers[0].endpoint.unwrap().to_string(), "192.0.2.8:40000");
    assert!(second.generation > first.generation);

    let mut edge = Raw::registered_as_edge("proxy-1", &platform).await;
    let set = told(&mut edge).await;
    let names: Vec<&str> = set.peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(names, ["worker-1"], "no stranger, none without a key");

    let links = vec![MeshLink {
        name: label("worker-1"),
        path: MeshPath::Hub,
        handshake_age_ms: None,
        round_trip_us: Some(420),
        received_bytes: 1,
        sent_bytes: 2,
    }];
    edge.send(&MeshStatus { generation: Some(set.generation), mtu: 1420, links: links.clone() }.into()).await;
    let mesh = platform.state.hub.mesh();
    let told = || mesh.read().1.remove(&label("proxy-1")).map(|told| told.status.links);
    while told().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(told(), Some(links));
    assert_eq!(mesh.read().0.peers[0].name, label("proxy-1"), "what its own interface shows");
    assert_eq!(platform.state.hub.named(Role::Edge), Some(set.generation));
    assert_eq!(platform.state.hub.name_peers(Role::Edge, (HUB.parse().unwrap(), None), set.peers, 0), None);
    telling.abort();
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn agents_are_told_of_the_key_that_the_control_plane_changes_to_until_it_has_it(pool: PgPool) {
    let change = |state: &mut wisehosting_control_plane::state::AppState| {
        let config = Arc::get_mut(&mut state.config).unwrap();
        config.mesh = Some(interface());
        config.join = Some(JoinConfig {
            pool: "10.50.0.128/25".parse().unwrap(),
            endpoint: "198.51.100.1:51821".parse().unwrap(),
            address_rest_days: 30,
            next_public_key: Some(NEXT.parse().unwrap()),
        });
    };
    let platform = Platform::start_with(pool, change).await;
    let mut worker = Raw::registered(&platform).await;
    let mut generation = 0;
    // Two processes, one after the other.
    for (key, next) in [(HUB, Some(NEXT)), (NEXT, None)] {
        let (_seen, sight) = watch::channel(Sight::default());
        let telling = tokio::spawn(mesh::tell(platform.state.clone(), key.parse().unwrap(), sight));
        let set = told(&mut worker).await;
        assert_eq!((&*set.hub, set.next_hub.as_deref()), (key, next));
        assert!(set.generation > generation);
        generation = set.generation;
        telling.abort();
    }
    platform.stop().await;
}
