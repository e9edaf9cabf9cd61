//! A real Traefik that polls the control plane, which dies and returns.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use reqwest::{StatusCode, header::HOST};
use sqlx::PgPool;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use wisehosting_domain::state::DeploymentState::Live;
use wisehosting_node::http;
use wisehosting_protocol::payload::Outcome;
use wisehosting_store::MIGRATOR;

use crate::{
    agent::{Agent, deployed},
    platform::{Platform, TRAEFIK_TOKEN},
};

/// Traefik waits ever longer for a control plane that is away.
const PATIENCE: Duration = Duration::from_secs(90);

/// Traefik's process; killed when it is dropped.
struct Traefik {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Traefik {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Traefik {
    fn start(control_plane: SocketAddr) -> Self {
        let program = env::var_os("WISEHOSTING_TRAEFIK").expect("WISEHOSTING_TRAEFIK names the program");
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let settings = format!(
            "entryPoints: {{ web: {{ address: \"{address}\" }} }}\n\
             providers:\n  providersThrottleDuration: 100ms\n  http:\n    pollInterval: 200ms\n    \
             endpoint: http://{control_plane}/v1/traefik/proxy-config\n    \
             headers: {{ Authorization: \"Bearer {TRAEFIK_TOKEN}\" }}\n"
        );
        let file = directory.path().join("traefik.yml");
        fs::write(&file, settings).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--configFile={}", file.display())).stdout(Stdio::null());
        Self { process: command.spawn().unwrap(), address, _directory: directory }
    }

    async fn visit(&self) -> Option<(StatusCode, String)> {
        let request = http::client().unwrap().get(format!("http://{}/", self.address));
        let response = request.header(HOST, "hello.localhost").send().await.ok()?;
        Some((response.status(), response.text().await.ok()?))
    }

    async fn serves(&self, expected: &str) {
        let looking = async {
            while self.visit().await != Some((StatusCode::OK, expected.to_owned())) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, looking).await.expect("Traefik serves it in time");
    }
}

/// An app on loopback that says its name.
async fn app(name: &'static str) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().fallback(async move || name)).await.unwrap();
    });
    match deployed(0) {
        Outcome::Deployed { commit, image_id, .. } => Outcome::Deployed { commit, image_id, address: at },
        other => other,
    }
}

/// One address for control planes that come and go.
async fn relay() -> (SocketAddr, Arc<Mutex<Option<SocketAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Arc::new(Mutex::new(None));
    let current = target.clone();
    tokio::spawn(async move {
        loop {
            let (mut visitor, _) = listener.accept().await.unwrap();
            let Some(target): Option<SocketAddr> = *current.lock().unwrap() else { continue };
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(target).await {
                    let _ = copy_bidirectional(&mut visitor, &mut server).await;
                }
            });
        }
    });
    (address, target)
}

/// A control plane that has no edges, and whose worker is on loopback.
async fn start(pool: PgPool) -> Platform {
    Platform::start_with(pool, |state| {
        let config = Arc::get_mut(&mut state.config).expect("nobody else has it yet");
        config.workers[0].address = Ipv4Addr::LOCALHOST.into();
        config.edges.clear();
    })
    .await
}

fn address(platform: &Platform) -> Option<SocketAddr> {
    platform.url.strip_prefix("http://").unwrap().parse().ok()
}

#[sqlx::test(migrator = "MIGRATOR")]
#[ignore = "needs a Traefik, which takes long to build: set WISEHOSTING_TRAEFIK to the program"]
async fn a_polling_traefik_keeps_its_routes_while_the_control_plane_is_away(pool: PgPool) {
    let (front, target) = relay().await;
    let platform = start(pool.clone()).await;
    *target.lock().unwrap() = address(&platform);
    let traefik = Traefik::start(front);
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.create_app("hello").await;
    let first = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, app("first").await).await;
    traefik.serves("first").await;
    platform.reaches(first, Live).await;

    *target.lock().unwrap() = None;
    platform.stop().await;
    drop(worker);
    for _ in 0..20 {
        assert_eq!(traefik.visit().await, Some((StatusCode::OK, "first".to_owned())));
        sleep(Duration::from_millis(100)).await;
    }

    let platform = start(pool).await;
    *target.lock().unwrap() = address(&platform);
    let mut worker = Agent::worker(&platform, "worker-1").await;
    platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    worker.finish(&job, app("second").await).await;
    traefik.serves("second").await;
    platform.stop().await;
}
