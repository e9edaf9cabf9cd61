//! What the edge does with the tables that the control plane sends, and what it says about them.

use crate::surroundings::{Edge, Instance, table, within};
use http::StatusCode;
use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::routes::{RouteTable, Upstream};
use wisehosting_edge::{
    acme::sharing::{Running, sharing},
    agent::Agent,
    outside::Machine,
    table::{ServingTable, file::TableFile},
};
use wisehosting_node::channel::{
    Event,
    memory::{self, FarEnd},
};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage},
    payload::{Registered, RouteProblem, Routes, RoutesAck, RoutesDrained},
};

/// An agent with its ingress, and the hub's ends of its channel.
struct Fixture {
    hub: FarEnd,
    edge: Visits,
    directory: tempfile::TempDir,
    shutdown: CancellationToken,
    agent: JoinHandle<()>,
}

/// Where visitors of the ingress go; the ingress itself is the agent's.
struct Visits(std::net::SocketAddr);

impl Visits {
    async fn get(&self, host: &str) -> (StatusCode, String) {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        crate::surroundings::parse(&crate::surroundings::exchange(self.0, &request).await)
    }
}

impl Fixture {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = TableFile::open(directory.path()).unwrap();
        let Edge { ingress, generations, http, .. } = Edge::start(RouteTable::default());
        let serving = Arc::new(ServingTable::new(RouteTable::default(), &generations));
        ingress.install(&serving).await;
        let (handle, events, hub) = memory::channel();
        let (mailbox, _) = sharing(Arc::default(), Running::default(), handle.clone());
        let agent = Agent::new(Machine { door: ingress.into(), file }, generations, serving, handle, mailbox);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let agent = tokio::spawn(async move {
            agent.run(events, &stop).await;
        });
        let fixture = Self { hub, edge: Visits(http), directory, shutdown, agent };
        fixture.connect().await;
        fixture
    }

    async fn connect(&self) {
        let registered = Registered { version: "hub".to_owned(), heartbeat_interval_ms: 15_000 };
        self.hub.events.send(Event::Connected(registered)).await.unwrap();
    }

    async fn routes(&self, table: RouteTable) {
        self.hub.events.send(Event::Message(HubMessage::Routes(Routes { table }))).await.unwrap();
    }

    async fn said(&mut self) -> AgentMessage {
        within(self.hub.sent.recv()).await.unwrap()
    }

    /// Sends a table, and waits for the answer that all of it is in force and nothing older is.
    async fn switch(&mut self, table: RouteTable) {
        let generation = table.generation;
        self.routes(table).await;
        assert_eq!(self.said().await, RoutesAck { generation, problems: Vec::new() }.into());
        while self.said().await != (RoutesDrained { generation }).into() {}
    }

    fn saved(&self) -> Option<RouteTable> {
        TableFile::open(self.directory.path()).unwrap().load().unwrap()
    }
}

#[tokio::test]
async fn a_table_is_served_saved_and_acknowledged() {
    let mut fixture = Fixture::start().await;
    let (one, two) = (Instance::named("one").await, Instance::named("two").await);
    for (generation, instance, name) in [(1, &one, "one"), (2, &two, "two")] {
        let table = table(generation, &[("a.localhost", &[&instance.upstream])]);
        fixture.switch(table.clone()).await;
        assert_eq!(fixture.edge.get("a.localhost").await.1, name);
        assert_eq!(fixture.saved(), Some(table));
    }
    fixture.shutdown.cancel();
    within(&mut fixture.agent).await.unwrap();
}

#[tokio::test]
async fn heartbeats_come_as_often_as_the_control_plane_wants() {
    let mut fixture = Fixture::start().await;
    let registered = Registered { version: "hub".to_owned(), heartbeat_interval_ms: 100 };
    fixture.hub.events.send(Event::Connected(registered)).await.unwrap();
    for _ in 0..2 {
        let AgentMessage::Heartbeat(heartbeat) = fixture.said().await else { panic!("a heartbeat") };
        assert!(heartbeat.memory_bytes_used > 0);
    }
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_reported_and_left_out() {
    let mut fixture = Fixture::start().await;
    let old = Instance::named("old").await;
    fixture.switch(table(1, &[("a.localhost", &[&old.upstream])])).await;
    let gone: Upstream = Instance::named("gone").await.upstream.clone();
    fixture.routes(table(2, &[("a.localhost", &[&gone]), ("b.localhost", &[&gone, &old.upstream])])).await;
    let AgentMessage::RoutesAck(RoutesAck { generation: 2, problems }) = fixture.said().await else {
        panic!("generation 2 is acknowledged");
    };
    let [RouteProblem { instance_id, message }] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(*instance_id, gone.instance_id);
    assert!(message.starts_with(&gone.address.to_string()), "{message}");
    assert_eq!(fixture.edge.get("a.localhost").await.1, "old", "it keeps what it had");
    assert_eq!(fixture.edge.get("b.localhost").await.1, "old");
}

#[tokio::test]
async fn an_older_table_is_taken_from_a_new_connection_only() {
    let mut fixture = Fixture::start().await;
    let one = Instance::named("one").await;
    let routed = |generation| table(generation, &[("a.localhost", &[&one.upstream])]);
    fixture.switch(routed(7)).await;
    fixture.routes(table(6, &[])).await;
    assert!(matches!(fixture.said().await, AgentMessage::Error(_)));
    assert_eq!(fixture.edge.get("a.localhost").await.0, StatusCode::OK);
    fixture.hub.events.send(Event::Disconnected).await.unwrap();
    fixture.connect().await;
    fixture.switch(table(6, &[])).await;
    assert_eq!(fixture.edge.get("a.localhost").await.0, StatusCode::NOT_FOUND);
    assert_eq!(fixture.saved(), Some(RouteTable { generation: 6, routes: BTreeMap::new() }));
}

#[tokio::test]
async fn drained_is_said_when_the_last_request_of_older_tables_ends() {
    let mut fixture = Fixture::start().await;
    let (finish, finished) = oneshot::channel::<()>();
    let finished = Arc::new(tokio::sync::Mutex::new(Some(finished)));
    let slow = Instance::http(move |_| {
        let finished = finished.clone();
        async move {
            let finished = finished.lock().await.take();
            finished.unwrap().await.unwrap();
            http::Response::new("done".into())
        }
    })
    .await;
    fixture.switch(table(1, &[("a.localhost", &[&slow.upstream])])).await;
    let address = fixture.edge.0;
    let request = tokio::spawn(async move { Visits(address).get("a.localhost").await });
    within(async {
        while slow.connections.load(std::sync::atomic::Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    fixture.routes(table(2, &[])).await;
    assert_eq!(fixture.said().await, RoutesAck { generation: 2, problems: Vec::new() }.into());
    assert_eq!(fixture.said().await, RoutesDrained { generation: 1 }.into(), "a request is under way");
    finish.send(()).unwrap();
    assert_eq!(fixture.said().await, RoutesDrained { generation: 2 }.into());
    assert_eq!(within(request).await.unwrap(), (StatusCode::OK, "done".to_owned()));
}
