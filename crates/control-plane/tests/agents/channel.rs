//! Who may connect, and what ends a connection.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use sqlx::PgPool;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, protocol::CloseFrame},
};
use wisehosting_control_plane::{
    hub::Hub,
    nodes::{Role, token},
};
use wisehosting_node::{
    channel::registration::TokenResponse,
    clock::{Clock as _, SystemClock},
    http,
};
use wisehosting_protocol::{
    HEADER_START, HEADER_VERSION, VERSION,
    connection::AgentConnection,
    key::SigningKey,
    message::{AgentMessage, HubMessage},
    payload::{ErrorReport, Heartbeat, Register, RoutesDrained},
    session::Status,
    timing::Timing,
};
use wisehosting_store::MIGRATOR;

use crate::{
    agent::{Agent, deployed},
    platform::{PATIENCE, Platform, TRAEFIK_TOKEN, api_key, label},
};

/// One connection, without the agents' own code around it.
pub(crate) struct Raw {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    connection: AgentConnection,
    /// How the hub closed it.
    closed: Option<CloseFrame>,
}

/// Opens a channel with these values, whatever they are; the status of the refusal otherwise.
async fn open(platform: &Platform, path: &str, token: &str, version: u32) -> Result<Raw, StatusCode> {
    open_as("worker-1", platform, path, token, version).await
}

async fn open_as(
    node: &str,
    platform: &Platform,
    path: &str,
    token: &str,
    version: u32,
) -> Result<Raw, StatusCode> {
    let address: SocketAddr = platform.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    let accept_start = 1_000;
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    headers.insert(HEADER_VERSION, version.into());
    headers.insert(HEADER_START, accept_start.into());
    let stream = MaybeTlsStream::Plain(TcpStream::connect(address).await.unwrap());
    match client_async(request, stream).await {
        Ok((socket, response)) => {
            let send_start = response.headers()[HEADER_START].to_str().unwrap().parse().unwrap();
            let key = SigningKey::derive(&api_key(node));
            let connection = AgentConnection::new(key, send_start, accept_start);
            Ok(Raw { socket, connection, closed: None })
        }
        Err(tungstenite::Error::Http(response)) => Err(response.status()),
        Err(error) => panic!("{error}"),
    }
}

impl Raw {
    /// An open channel of worker-1 that has registered.
    pub(crate) async fn registered(platform: &Platform) -> Self {
        Self::registered_as("worker-1", platform).await
    }

    /// An open channel of this edge that has registered.
    pub(crate) async fn registered_as_edge(edge: &str, platform: &Platform) -> Self {
        let name = label(edge);
        let secret = &platform.state.secrets.jwt;
        let (token, _) = token::issue(secret, Role::Edge, &name, SystemClock.now()).unwrap();
        let mut raw = open_as(edge, platform, "/v1/edges/ws", token.expose_secret(), VERSION).await.unwrap();
        raw.send(&register()).await;
        assert!(matches!(raw.receive().await, Some(HubMessage::Registered(_))));
        raw
    }

    async fn registered_as(worker: &str, platform: &Platform) -> Self {
        let token = token_of(worker, platform).await;
        let mut raw = open_as(worker, platform, "/v1/workers/ws", &token, VERSION).await.unwrap();
        raw.send(&register()).await;
        assert!(matches!(raw.receive().await, Some(HubMessage::Registered(_))));
        raw
    }

    fn seal(&mut self, message: &AgentMessage) -> String {
        self.connection.seal(message, [7; 16], SystemClock.now_ms())
    }

    pub(crate) async fn send(&mut self, message: &AgentMessage) {
        let text = self.seal(message);
        self.send_text(text).await;
    }

    async fn send_text(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The hub's next message; none once it closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<HubMessage> {
        loop {
            let frame = timeout(PATIENCE, self.socket.next()).await.expect("nothing came in time");
            match frame {
                Some(Ok(Message::Text(text))) => {
                    return Some(self.connection.open(&text, SystemClock.now_ms()).unwrap());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    self.closed = frame;
                    return None;
                }
                Some(Err(_)) | None => return None,
                Some(Ok(frame)) => panic!("{frame:?}"),
            }
        }
    }

    /// What the hub says last, as a message and as the reason for the close.
    async fn farewell(&mut self) -> String {
        let farewell = match self.receive().await {
            Some(HubMessage::Error(error)) => error.message,
            other => panic!("{other:?}"),
        };
        assert_eq!(self.receive().await, None, "it closes the connection");
        assert_eq!(self.closed.as_ref().map(|frame| frame.reason.as_str()), Some(&*farewell));
        farewell
    }
}

fn register() -> AgentMessage {
    Register { version: "test".to_owned(), capacity: None, running_jobs: Vec::new() }.into()
}

fn heartbeat() -> AgentMessage {
    Heartbeat { memory_bytes_used: 0, cpu_millis_used: 0, instances: Some(0), running_jobs: Vec::new() }
        .into()
}

async fn post(platform: &Platform, path: &str, body: &str) -> reqwest::Response {
    let request = http::client().unwrap().post(format!("{}{path}", platform.url));
    request.header("content-type", "application/json").body(body.to_owned()).send().await.unwrap()
}

async fn worker_token(platform: &Platform) -> String {
    token_of("worker-1", platform).await
}

async fn token_of(worker: &str, platform: &Platform) -> String {
    let body = format!(r#"{{"name":"{worker}","api_key":"{}","version":"test"}}"#, api_key(worker));
    let response = post(platform, "/v1/workers/register", &body).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json::<TokenResponse>().await.unwrap().token.expose_secret().to_owned()
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn only_a_declared_nodes_own_key_registers(pool: PgPool) {
    let platform = Platform::start(pool).await;
    for (path, name, key) in [
        ("/v1/workers/register", "worker-1", api_key("worker-2")),
        ("/v1/workers/register", "worker-9", api_key("worker-9")),
        ("/v1/workers/register", "worker-1", String::new()),
        ("/v1/edges/register", "worker-1", api_key("worker-1")),
    ] {
        let body = format!(r#"{{"name":"{name}","api_key":"{key}","version":"test"}}"#);
        let response = post(&platform, path, &body).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path} {name}");
        let text = response.text().await.unwrap();
        assert!(key.is_empty() || !text.contains(&key), "{text}");
    }
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_api_key_gets_a_fresh_token(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let refresh = async |path: &str, key: &str| {
        let request = http::client().unwrap().post(format!("{}{path}", platform.url)).bearer_auth(key);
        request.send().await.unwrap()
    };
    let response = refresh("/v1/edges/refresh-token", &api_key("proxy-1")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let token: TokenResponse = response.json().await.unwrap();
    assert!(token.token_expires_at > SystemClock.now() + time::Duration::minutes(14));
    let response = refresh("/v1/workers/refresh-token", &api_key("proxy-1")).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    // A token is not a key: it cannot prolong itself.
    let response = refresh("/v1/edges/refresh-token", token.token.expose_secret()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_channel_opens_for_a_token_of_the_role_only(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let good = worker_token(&platform).await;
    let old = SystemClock.now() - time::Duration::minutes(16);
    let sign = |secret: &str, name: &str, at| {
        let (token, _) = token::issue(&secret.into(), Role::Worker, &label(name), at).unwrap();
        token.expose_secret().to_owned()
    };
    for (path, token, why) in [
        ("/v1/workers/ws", api_key("worker-1"), "the API key itself"),
        ("/v1/workers/ws", String::new(), "nothing"),
        ("/v1/workers/ws", sign("guess", "worker-1", SystemClock.now()), "another secret"),
        ("/v1/workers/ws", sign("jwt-secret", "worker-1", old), "an old token"),
        ("/v1/workers/ws", sign("jwt-secret", "worker-9", SystemClock.now()), "no longer declared"),
        ("/v1/edges/ws", good.clone(), "another role"),
    ] {
        let refused = open(&platform, path, &token, VERSION).await.err();
        assert_eq!(refused, Some(StatusCode::UNAUTHORIZED), "{why}");
    }
    open(&platform, "/v1/workers/ws", &good, VERSION).await.unwrap();
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_agent_of_another_version_is_told_who_is_too_old(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let token = worker_token(&platform).await;
    for (version, expected) in [
        (1, "The agent is too old: the agent speaks version 1 "),
        (VERSION + 1, "The control plane is too old: the agent speaks version "),
    ] {
        let request = http::client().unwrap().get(format!("{}/v1/workers/ws", platform.url));
        let request = request.bearer_auth(&token).header(HEADER_START, 1).header(HEADER_VERSION, version);
        let request = request.header("connection", "upgrade").header("upgrade", "websocket");
        let request = request.header("sec-websocket-version", 13).header("sec-websocket-key", "x".repeat(24));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
        let text = response.text().await.unwrap();
        assert!(text.contains(expected) && text.contains("Install the same release"), "{text}");
    }
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_newer_connection_takes_the_place_of_the_older(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut older = Raw::registered(&platform).await;
    let mut newer = Raw::registered(&platform).await;
    assert_eq!(older.farewell().await, "a newer connection of this node took its place");
    assert_eq!(older.closed.map(|frame| frame.code.into()), Some(Status::Replaced as u16));
    newer.send(&heartbeat()).await;
    assert!(platform.state.hub.is_connected(&label("worker-1")), "the end of the older is not the newer's");
    newer.socket.close(None).await.unwrap();
    platform.is_cut_off("worker-1").await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_node_that_answers_no_ping_is_cut_off(pool: PgPool) {
    let timing = Timing {
        ping_interval: Duration::from_millis(200),
        silence_max: Duration::from_secs(3),
        ..Timing::default()
    };
    let platform = Platform::start_with(pool, |state| state.hub = Hub::new(timing)).await;
    // Its connection stays open, but nobody looks at it.
    let _half_open = Raw::registered_as("worker-1", &platform).await;
    let mut answering = Raw::registered_as("worker-2", &platform).await;
    let answering = tokio::spawn(async move { while answering.socket.next().await.is_some() {} });
    platform.is_cut_off("worker-1").await;
    assert!(
        platform.state.hub.is_connected(&label("worker-2")),
        "it has said nothing either, but for its pongs"
    );
    answering.abort();
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_node_that_reads_nothing_is_cut_off_and_others_do_not_wait_for_it(pool: PgPool) {
    let timing = Timing { write_timeout: Duration::from_secs(2), ..Timing::default() };
    let platform = Platform::start_with(pool, |state| state.hub = Hub::new(timing)).await;
    let _stuck = Raw::registered_as("worker-1", &platform).await;
    let mut reading = Raw::registered_as("worker-2", &platform).await;
    let hub = &platform.state.hub;
    let large = ErrorReport { message: "x".repeat(100_000) };
    while hub.send(&label("worker-1"), large.clone()).is_ok() {}
    let small = ErrorReport { message: "for the other".to_owned() };
    hub.send(&label("worker-2"), small.clone()).unwrap();
    assert_eq!(reading.receive().await, Some(small.into()));
    platform.is_cut_off("worker-1").await;
    assert!(hub.is_connected(&label("worker-2")));
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_message_that_is_not_this_connections_ends_it(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let mut raw = Raw::registered(&platform).await;
    let recorded = raw.seal(&heartbeat());
    raw.send_text(recorded.clone()).await;
    raw.send_text(recorded.clone()).await;
    assert_eq!(raw.farewell().await, "a message of the agent is refused", "sent twice");

    let mut raw = Raw::registered(&platform).await;
    raw.send_text(recorded).await;
    assert_eq!(raw.farewell().await, "a message of the agent is refused", "of another connection");

    let mut raw = Raw::registered(&platform).await;
    let forged = raw.seal(&heartbeat()).replace("\"instances\":0", "\"instances\":9");
    raw.send_text(forged).await;
    assert_eq!(raw.farewell().await, "a message of the agent is refused", "changed on the way");

    let mut raw = Raw::registered(&platform).await;
    raw.send(&RoutesDrained { generation: 1 }.into()).await;
    assert_eq!(raw.farewell().await, "the agent sent a message of another kind of agent");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_first_message_must_be_a_registration(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let token = worker_token(&platform).await;
    let mut raw = open(&platform, "/v1/workers/ws", &token, VERSION).await.unwrap();
    raw.send(&heartbeat()).await;
    assert_eq!(raw.farewell().await, "the agent did not register");
    assert!(!platform.state.hub.is_connected(&label("worker-1")));
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_traefik_reads_its_configuration_with_its_token_only(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let get = async |path: &str, token: &str| {
        let url = format!("{}/v1/traefik/{path}", platform.url);
        http::client().unwrap().get(url).bearer_auth(token).send().await.unwrap()
    };
    for path in ["proxy-config", "config?worker=worker-1"] {
        assert_eq!(get(path, "wrong").await.status(), StatusCode::UNAUTHORIZED);
        let response = get(path, TRAEFIK_TOKEN).await;
        assert_eq!((response.status(), response.text().await.unwrap().as_str()), (StatusCode::OK, "{}"));
    }
    assert_eq!(get("config?worker=worker-9", TRAEFIK_TOKEN).await.status(), StatusCode::NOT_FOUND);

    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, deployed(20_001)).await;
    platform
        .eventually(async || {
            let all = get("proxy-config", TRAEFIK_TOKEN).await.text().await.unwrap();
            if all.contains("http://10.50.0.11:20001") { Ok(()) } else { Err(all) }
        })
        .await;
    let text = async |path| get(path, TRAEFIK_TOKEN).await.text().await.unwrap();
    let all = text("proxy-config").await;
    assert_eq!(text("config?worker=worker-1").await, all);
    assert_eq!(text("config?worker=worker-2").await, "{}");
    // Not sure of its state: anything but 200 keeps what the proxy has.
    platform.state.signals.database_ready.send_replace(false);
    for path in ["proxy-config", "config?worker=worker-1"] {
        assert_eq!(get(path, TRAEFIK_TOKEN).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    platform.stop().await;
}
