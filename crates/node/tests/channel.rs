//! The channel against a hub made of axum and the protocol crate: registration, the signed WebSocket, and what happens
//! when either breaks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use axum::{
    Json, Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::{
    id::{InstanceId, JobId},
    routes::RouteTable,
};
use wisehosting_node::{
    channel::{
        self, ChannelHandle, Event, Identity, Role,
        registration::{RegisterRequest, TokenResponse},
    },
    clock::{Clock, SystemClock},
    config::{ControlPlaneEndpoint, ControlPlaneUrl},
    mesh::PeerSets,
};
use wisehosting_protocol::{
    HEADER_START, HEADER_VERSION, VERSION,
    connection::HubConnection,
    key::SigningKey,
    message::{AgentMessage, HubMessage},
    payload::{Heartbeat, JobRef, Register, Registered, Routes, RoutesAck, RoutesDrained, RuntimeLog},
};

const API_KEY: &str = "edge-key";
/// Long enough to connect, short enough to see it refreshed.
const SHORT_LIFETIME: Duration = Duration::from_secs(8);
/// No test sees it refreshed.
const LONG_LIFETIME: Duration = Duration::from_secs(900);

/// A hub that hands its connections to the test.
#[derive(Clone)]
struct Hub {
    registrations: Arc<AtomicUsize>,
    refreshes: Arc<AtomicUsize>,
    /// Of a token that a registration gives.
    lifetime: Duration,
    /// The tokens that open the channel; a registration gives a new one, and so does a refresh.
    tokens: Arc<Mutex<Vec<String>>>,
    connections: mpsc::UnboundedSender<HubEnd>,
}

/// The hub's end of one connection.
struct HubEnd {
    token: String,
    socket: WebSocket,
    connection: HubConnection,
}

impl HubEnd {
    async fn receive(&mut self) -> AgentMessage {
        loop {
            match self.socket.recv().await.expect("the agent is there").expect("a frame") {
                Message::Text(text) => {
                    return self.connection.open(&text, SystemClock.now_ms()).expect("the agent's signature");
                }
                Message::Close(_) => panic!("the agent closed"),
                _ => {}
            }
        }
    }

    async fn send(&mut self, message: HubMessage) {
        let text = self.connection.seal(&message, [7; 16], SystemClock.now_ms());
        self.socket.send(Message::text(text)).await.expect("the agent is there");
    }

    async fn welcome(&mut self) -> Register {
        let AgentMessage::Register(register) = self.receive().await else { panic!("register comes first") };
        self.send(Registered { version: "hub".to_owned(), heartbeat_interval_ms: 15_000 }.into()).await;
        register
    }
}

async fn register(State(hub): State<Hub>, Json(request): Json<RegisterRequest>) -> Response {
    use secrecy::ExposeSecret;
    let count = hub.registrations.fetch_add(1, Ordering::SeqCst);
    if request.api_key.expose_secret() != API_KEY || request.name.as_str() != "edge-1" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let token = format!("token-{count}");
    hub.tokens.lock().unwrap().push(token.clone());
    Json(TokenResponse { token: token.into(), token_expires_at: SystemClock.now() + hub.lifetime })
        .into_response()
}

async fn refresh(State(hub): State<Hub>, headers: HeaderMap) -> Response {
    assert_eq!(headers["authorization"], format!("Bearer {API_KEY}"));
    let count = hub.refreshes.fetch_add(1, Ordering::SeqCst);
    let token = format!("refreshed-{count}");
    hub.tokens.lock().unwrap().push(token.clone());
    Json(TokenResponse { token: token.into(), token_expires_at: SystemClock.now() + LONG_LIFETIME })
        .into_response()
}

async fn upgrade(State(hub): State<Hub>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
    if !hub.tokens.lock().unwrap().contains(&token) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    assert_eq!(header(HEADER_VERSION), VERSION.to_string());
    let send_start = header(HEADER_START).parse().expect("where to start");
    let accept_start = 77;
    let connection = HubConnection::new(SigningKey::derive(API_KEY), send_start, accept_start);
    let mut response = upgrade.on_upgrade(move |socket| async move {
        let _ = hub.connections.send(HubEnd { token, socket, connection });
    });
    response.headers_mut().insert(HEADER_START, accept_start.into());
    response
}

struct Fixture {
    hub: Hub,
    hub_ends: mpsc::UnboundedReceiver<HubEnd>,
    handle: ChannelHandle,
    events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
}

impl Fixture {
    async fn start(api_key: &str) -> Self {
        Self::start_with(api_key, LONG_LIFETIME).await
    }

    /// With this lifetime of the first token.
    async fn start_with(api_key: &str, lifetime: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (connections, hub_ends) = mpsc::unbounded_channel();
        let hub = Hub {
            registrations: Arc::default(),
            refreshes: Arc::default(),
            lifetime,
            tokens: Arc::default(),
            connections,
        };
        let router = Router::new()
            .route("/v1/edges/register", post(register))
            .route("/v1/edges/refresh-token", post(refresh))
            .route("/v1/edges/ws", get(upgrade))
            .with_state(hub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let endpoint = ControlPlaneEndpoint {
            url: ControlPlaneUrl::try_from(url).unwrap(),
            name: "edge-1".parse().unwrap(),
            api_key_file: None,
        };
        let identity = Identity { role: Role::Edge, endpoint, api_key: api_key.into(), version: "test" };
        let shutdown = CancellationToken::new();
        let register = || Register { version: "test".to_owned(), capacity: None, running_jobs: Vec::new() };
        let (handle, events) =
            channel::spawn(identity, Arc::new(SystemClock), register, PeerSets::default(), shutdown.clone())
                .unwrap();
        Self { hub, hub_ends, handle, events, shutdown }
    }

    async fn hub_end(&mut self) -> HubEnd {
        within(self.hub_ends.recv()).await.expect("a connection")
    }

    async fn event(&mut self) -> Event {
        within(self.events.recv()).await.expect("an event")
    }

    async fn connected(&mut self) -> HubEnd {
        let mut end = self.hub_end().await;
        assert_eq!(end.welcome().await.version, "test");
        assert!(matches!(self.event().await, Event::Connected(registered) if registered.version == "hub"));
        end
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it happens in time")
}

fn table(generation: u64) -> HubMessage {
    Routes { table: RouteTable { generation, routes: BTreeMap::new() } }.into()
}

fn job_ack(n: u128) -> AgentMessage {
    AgentMessage::JobAck(JobRef { job_id: JobId(uuid::Uuid::from_u128(n)) })
}

#[tokio::test]
async fn messages_travel_both_ways_in_order() {
    let mut fixture = Fixture::start(API_KEY).await;
    let mut hub = fixture.connected().await;
    for n in 0..300 {
        fixture.handle.send(job_ack(n)).await.unwrap();
    }
    for n in 0..300 {
        assert_eq!(within(hub.receive()).await, job_ack(n));
    }
    hub.send(table(4)).await;
    hub.send(table(5)).await;
    assert_eq!(fixture.event().await, Event::Message(table(4)));
    assert_eq!(fixture.event().await, Event::Message(table(5)));
    fixture.shutdown.cancel();
    assert_eq!(within(fixture.events.recv()).await, None);
    assert!(within(fixture.handle.send(job_ack(1))).await.is_err());
}

#[tokio::test]
async fn a_lost_connection_comes_back_and_brings_what_waited() {
    let mut fixture = Fixture::start(API_KEY).await;
    drop(fixture.connected().await);
    assert_eq!(fixture.event().await, Event::Disconnected);
    let heartbeat =
        Heartbeat { memory_bytes_used: 0, cpu_millis_used: 0, instances: None, running_jobs: Vec::new() };
    fixture.handle.send(heartbeat).await.unwrap();
    fixture.handle.send(job_ack(1)).await.unwrap();
    let mut hub = fixture.connected().await;
    assert_eq!(within(hub.receive()).await, job_ack(1), "the heartbeat was of the moment and is gone");
    assert_eq!(fixture.hub.registrations.load(Ordering::SeqCst), 1, "the token still holds");
}

#[tokio::test]
async fn a_full_queue_has_room_for_what_matters_more() {
    let mut fixture = Fixture::start(API_KEY).await;
    let mut hub = fixture.connected().await;
    let handle = fixture.handle.clone();
    // Nothing is sent meanwhile: the channel runs on this thread.
    let instance_id = InstanceId(uuid::Uuid::nil());
    let log = || RuntimeLog { instance_id, after: None, cursor: None, lines: Vec::new() };
    while handle.try_send(log()).is_ok() {}
    let mut waiting = 0;
    while handle.try_send(job_ack(waiting)).is_ok() {
        waiting += 1;
    }
    assert!(waiting > 100, "logs leave room for {waiting} messages");
    for generation in [1, 2] {
        handle.try_send(RoutesAck { generation, problems: Vec::new() }).unwrap();
        handle.try_send(RoutesDrained { generation }).unwrap();
    }
    let (mut acks, mut routes) = (0, Vec::new());
    while acks < waiting || routes.len() < 2 {
        match within(hub.receive()).await {
            AgentMessage::JobAck(_) => acks += 1,
            AgentMessage::RuntimeLog(_) => {}
            message => routes.push(message),
        }
    }
    let newest: [AgentMessage; 2] =
        [RoutesAck { generation: 2, problems: Vec::new() }.into(), RoutesDrained { generation: 2 }.into()];
    assert_eq!(routes, newest, "of these only the newest");
}

#[tokio::test]
async fn a_token_is_refreshed_before_it_ends() {
    let mut fixture = Fixture::start_with(API_KEY, SHORT_LIFETIME).await;
    let mut hub = fixture.connected().await;
    within(async {
        while fixture.hub.refreshes.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // The answer may still be on its way to the agent when it connects again.
    while hub.token != "refreshed-0" {
        drop(hub);
        assert_eq!(fixture.event().await, Event::Disconnected);
        hub = fixture.connected().await;
    }
    assert_eq!(fixture.hub.registrations.load(Ordering::SeqCst), 1, "it never had to register again");
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_replaced() {
    let mut fixture = Fixture::start(API_KEY).await;
    let hub = fixture.connected().await;
    fixture.hub.tokens.lock().unwrap().clear();
    drop(hub);
    assert_eq!(fixture.event().await, Event::Disconnected);
    fixture.connected().await;
    assert_eq!(fixture.hub.registrations.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_message_of_another_connection_ends_the_connection() {
    let mut fixture = Fixture::start(API_KEY).await;
    let mut hub = fixture.connected().await;
    let recorded = hub.connection.seal(&table(9), [0; 16], SystemClock.now_ms());
    drop(hub);
    assert_eq!(fixture.event().await, Event::Disconnected);
    let mut hub = fixture.connected().await;
    hub.socket.send(Message::text(recorded)).await.unwrap();
    assert_eq!(fixture.event().await, Event::Disconnected, "and not the recorded table");
}

#[tokio::test]
async fn a_wrong_key_gets_no_connection() {
    let mut fixture = Fixture::start("not the key").await;
    within(async {
        while fixture.hub.registrations.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(fixture.hub_ends.try_recv().is_err());
    assert!(fixture.events.try_recv().is_err());
}
