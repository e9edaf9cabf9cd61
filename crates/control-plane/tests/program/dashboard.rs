//! The dashboard in a real browser: sign in by a link, see an app appear and a deployment's log grow without reload.
//!
//! `web/tests/dashboard.mjs` drives the browser and says on its standard output when it is time for something to
//! happen; here it is made to happen. The dashboard must be built (`npm ci && npm run build` in `web`).

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use sqlx::PgPool;
use wisehosting_domain::{id::DeploymentId, state::DeploymentState};
use wisehosting_node::clock::{Clock, SystemClock};
use wisehosting_store::{build_log, deployment_state, pool};

use crate::control_plane::Site;

const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../web");

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_app_appears_and_its_log_grows_without_reload(pool: PgPool) {
    for needed in ["dist/index.html", "node_modules/playwright-core"] {
        let there = Path::new(WEB).join(needed).exists();
        assert!(there, "web/{needed} is missing: run `npm ci && npm run build` in the folder web");
    }
    assert!(Path::new("/usr/bin/chromium").exists(), "chromium is missing: run `./dev setup test`");
    let site = Site::new(&pool);
    site.let_postgres_come();
    let control_plane = site.run();
    control_plane.until_health_is(200).await;
    let link = site.printed_by(&["login-link", "--email", "a@example.org"]);
    let (_, fragment) = link.split_once('#').unwrap();
    let mut browser = Command::new("node")
        .arg("tests/dashboard.mjs")
        .arg(format!("{}/#{fragment}", control_plane.url))
        .arg(site.folder.path())
        .current_dir(WEB)
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let worker = Worker::new(&pool).await;
    for line in BufReader::new(browser.stdout.take().unwrap()).lines() {
        match line.unwrap().as_str() {
            "deployed" => worker.begin().await,
            "watching" => worker.write(2, &["STEP 2/2: RUN \u{1b}[32mnpm install\u{1b}[0m"]).await,
            "log has grown" => worker.fail("the build failed: npm install ended with status 1").await,
            other => println!("browser: {other}"),
        }
    }
    assert!(browser.wait().unwrap().success(), "the browser's side failed, see above");
    assert_eq!(control_plane.stop().0, Some(0));
}

/// Plays the worker: what its reports leave in the database.
struct Worker<'a> {
    pool: &'a PgPool,
}

impl<'a> Worker<'a> {
    async fn new(pool: &'a PgPool) -> Self {
        let declare = "INSERT INTO workers (name, address) VALUES ('worker-1', '10.50.0.11')";
        sqlx::query(declare).execute(pool).await.unwrap();
        Self { pool }
    }

    async fn deployment(&self) -> DeploymentId {
        DeploymentId(sqlx::query_scalar("SELECT id FROM deployments").fetch_one(self.pool).await.unwrap())
    }

    async fn begin(&self) {
        sqlx::query("UPDATE jobs SET worker = 'worker-1'").execute(self.pool).await.unwrap();
        self.advance(DeploymentState::Cloning).await;
        self.advance(DeploymentState::Building).await;
        self.write(0, &["STEP 1/2: FROM node:22", "--> 4f2a"]).await;
    }

    async fn advance(&self, state: DeploymentState) {
        let mut db = pool::begin(self.pool).await.unwrap();
        deployment_state::advance(&mut db, self.deployment().await, state, SystemClock.now()).await.unwrap();
        pool::commit(db).await.unwrap();
    }

    async fn write(&self, first: u64, texts: &[&str]) {
        let line = |(number, text): (u64, &&str)| build_log::Line {
            number,
            at: SystemClock.now(),
            stream: "stdout".to_owned(),
            text: (*text).to_owned(),
        };
        let lines: Vec<_> = (first..).zip(texts).map(line).collect();
        let mut db = pool::begin(self.pool).await.unwrap();
        let worker = "worker-1".parse().unwrap();
        build_log::append(&mut db, &worker, self.deployment().await, &lines).await.unwrap();
        pool::commit(db).await.unwrap();
    }

    async fn fail(&self, message: &str) {
        let mut db = pool::begin(self.pool).await.unwrap();
        deployment_state::fail(&mut db, self.deployment().await, message, SystemClock.now()).await.unwrap();
        pool::commit(db).await.unwrap();
    }
}
