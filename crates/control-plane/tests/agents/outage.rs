//! Postgres is away when the control plane starts, and goes away later.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use reqwest::StatusCode;
use sqlx::{ConnectOptions as _, PgPool};
use wisehosting_domain::state::DeploymentState;
use wisehosting_node::http;
use wisehosting_store::{MIGRATOR, pool};

use crate::{
    agent::{Agent, deployed},
    platform::{Platform, TRAEFIK_TOKEN},
};

/// The way to the test's database; the database is away while its folder is.
struct Way {
    folder: PathBuf,
    server: PathBuf,
    direct: PgPool,
    _temporary: tempfile::TempDir,
}

impl Way {
    fn new(direct: PgPool) -> Self {
        let options = direct.connect_options();
        let server = options.get_socket().expect("a server on a unix socket").clone();
        let temporary = tempfile::tempdir().unwrap();
        Self { folder: temporary.path().join("postgres"), server, direct, _temporary: temporary }
    }

    fn pool(&self) -> PgPool {
        let mut url = self.direct.connect_options().to_url_lossy();
        url.query_pairs_mut().clear().append_pair("host", path(&self.folder));
        pool::open(url.as_str(), None).unwrap()
    }

    fn open(&self) {
        symlink(&self.server, &self.folder).unwrap();
    }

    /// Nobody gets in any more, and whoever is in is thrown out.
    async fn close(&self) {
        std::fs::remove_file(&self.folder).unwrap();
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .execute(&self.direct)
        .await
        .unwrap();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn status(platform: &Platform) -> StatusCode {
    let url = format!("{}/v1/traefik/proxy-config", platform.url);
    let request = http::client().unwrap().get(url).bearer_auth(TRAEFIK_TOKEN);
    request.send().await.unwrap().status()
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn the_control_plane_waits_for_postgres_and_recovers(direct: PgPool) {
    let way = Way::new(direct);
    let platform = Platform::start_without_database(way.pool()).await;
    assert_eq!(status(&platform).await, StatusCode::SERVICE_UNAVAILABLE);
    // Nodes register and connect all the same.
    let mut worker = Agent::worker(&platform, "worker-1").await;
    way.open();
    platform.prepare().await;
    assert_eq!(status(&platform).await, StatusCode::OK);

    platform.create_app("hello").await;
    let id = platform.deploy("hello").await;
    let job = worker.deploy_job().await;
    way.close().await;
    assert_eq!(status(&platform).await, StatusCode::SERVICE_UNAVAILABLE);
    worker.result(&job, deployed(20_001)).await;
    way.open();
    worker.acknowledged(&job).await;
    platform.reaches(id, DeploymentState::Routing).await;
    platform.stop().await;
}
