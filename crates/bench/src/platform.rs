//! The programs that are measured, all on the loopback: a private Postgres, the control plane, the edge.

use std::{
    fmt::Write as _,
    fs::{self, Permissions},
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Client, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use wisehosting_lab::postgres::Cluster;
use wisehosting_protocol::key::SigningKey;

use crate::process::{Process, free_address, own_program};

/// Name and API key of the worker that takes jobs.
pub const WORKER: &str = "worker-1";
/// Name and API key of the edge.
pub const EDGE: &str = "proxy-1";
/// What a Traefik that polls has to send.
pub const TRAEFIK_TOKEN: &str = "another";
const APP: &str = "bench";
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// Where the programs listen.
#[derive(Debug)]
struct Addresses {
    public: SocketAddr,
    internal: SocketAddr,
    ingress: SocketAddr,
}

/// The running programs; they end in the order in which they stand here.
#[derive(Debug)]
pub struct Platform {
    addresses: Addresses,
    client: Client,
    token: String,
    _edge: Process,
    control_plane: Process,
    postgres: Process,
    _folder: TempDir,
}

impl Platform {
    /// Starts them, with `crowd` declared workers beside the one that takes jobs (see [`crowd_member`]), and with `more` in the
    /// control plane's configuration.
    ///
    /// # Errors
    /// A program does not start, or this is not root.
    pub async fn start(crowd: u16, more: &str) -> anyhow::Result<Self> {
        ensure!(nix::unistd::getuid().is_root(), "this needs root: Postgres is started as another user");
        let folder = TempDir::with_prefix("wisehosting-bench-")?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let addresses =
            Addresses { public: free_address()?, internal: free_address()?, ingress: free_address()? };
        let (postgres, database_url) = start_postgres(folder.path())?;
        let config = addresses.write_control_plane(folder.path(), &database_url, crowd, more)?;
        let control_plane = start_program("wisehosting-control-plane", &config, addresses.public)?;
        let client = wisehosting_node::http::client()?;
        while !is_healthy(&client, &addresses).await {
            sleep(LOOK_PAUSE).await;
        }
        let token = create_token(&config)?;
        let config = addresses.write_edge(folder.path())?;
        let edge = start_program("wisehosting-edge", &config, addresses.ingress)?;
        let platform =
            Self { addresses, client, token, _edge: edge, control_plane, postgres, _folder: folder };
        while platform.get("/v1/edges").await?["edges"][0]["connected"] != true {
            sleep(LOOK_PAUSE).await;
        }
        Ok(platform)
    }

    /// Where agents connect.
    #[must_use]
    pub fn internal(&self) -> SocketAddr {
        self.addresses.internal
    }

    /// The control plane's process.
    #[must_use]
    pub fn control_plane(&self) -> &Process {
        &self.control_plane
    }

    /// Postgres' first process.
    #[must_use]
    pub fn postgres(&self) -> &Process {
        &self.postgres
    }

    /// Creates the only app.
    ///
    /// # Errors
    /// The control plane refuses.
    pub async fn create_app(&self) -> anyhow::Result<()> {
        let body = json!({ "name": APP, "repository": "https://example.org/never-cloned.git" });
        self.post("/v1/apps", &body).await.map(drop)
    }

    /// One request to the control plane that changes nothing.
    ///
    /// # Errors
    /// It is not healthy.
    pub async fn ping(&self) -> anyhow::Result<()> {
        ensure!(is_healthy(&self.client, &self.addresses).await, "the control plane is not healthy");
        Ok(())
    }

    /// Asks for a deployment; answers its id.
    ///
    /// # Errors
    /// The control plane refuses.
    pub async fn deploy(&self) -> anyhow::Result<String> {
        let deployment = self.post(&format!("/v1/apps/{APP}/deployments"), &json!({})).await?;
        Ok(deployment["id"].as_str().context("a deployment without an id")?.to_owned())
    }

    /// Waits until a deployment is live.
    ///
    /// # Errors
    /// It fails.
    pub async fn until_live(&self, deployment: &str) -> anyhow::Result<()> {
        self.until(deployment, "live").await
    }

    /// Waits until a deployment has failed.
    ///
    /// # Errors
    /// The control plane does not answer.
    pub async fn until_failed(&self, deployment: &str) -> anyhow::Result<()> {
        self.until(deployment, "failed").await
    }

    async fn until(&self, deployment: &str, state: &str) -> anyhow::Result<()> {
        loop {
            let answer = self.get(&format!("/v1/deployments/{deployment}")).await?;
            match answer["state"].as_str() {
                Some(now) if now == state => return Ok(()),
                Some("failed") => bail!("the deployment failed: {}", answer["message"]),
                _ => sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// What a visitor of the app gets from the edge.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn visit(&self) -> anyhow::Result<String> {
        self.visit_at(self.addresses.ingress).await
    }

    /// What a visitor of the app gets there.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn visit_at(&self, ingress: SocketAddr) -> anyhow::Result<String> {
        let url = format!("http://{ingress}/");
        let request = self.client.get(url).header(header::HOST, format!("{APP}.localhost"));
        Ok(request.send().await?.text().await?)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("http://{}{path}", self.addresses.public);
        let answer = self.client.get(url).bearer_auth(&self.token).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("http://{}{path}", self.addresses.public);
        let answer = self.client.post(url).bearer_auth(&self.token).json(body).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }
}

impl Addresses {
    fn write_control_plane(
        &self,
        folder: &Path,
        database_url: &str,
        crowd: u16,
        more: &str,
    ) -> anyhow::Result<PathBuf> {
        let (jwt, traefik, master) = (folder.join("jwt"), folder.join("traefik"), folder.join("master"));
        fs::write(&jwt, "a secret of the benchmark, which lasts as long as it runs")?;
        fs::write(&traefik, TRAEFIK_TOKEN)?;
        fs::write(&master, "Zm9yLXRoZS1iZW5jaG1hcms6LTMyLW5vdC1zZWNyZXQ=")?;
        let Self { public, internal, .. } = self;
        let mut text = format!(
            r#"
[log]
filter = "error"
[public]
listen = "{public}"
base_url = "http://{public}"
[internal]
listen = "{internal}"
[database]
url = "{database_url}"
[secrets]
jwt_secret_file = "{}"
traefik_token_file = "{}"
master_key_file = "{}"
[[workers]]
name = "{WORKER}"
address = "127.0.0.1"
api_key_sha256 = "{}"
[[edges]]
name = "{EDGE}"
address = "127.0.0.2"
api_key_sha256 = "{}"
"#,
            jwt.display(),
            traefik.display(),
            master.display(),
            key_hash(WORKER),
            key_hash(EDGE)
        );
        for (name, address) in (0..crowd).map(crowd_member) {
            let key = key_hash(&name);
            write!(
                text,
                "[[workers]]\nname = \"{name}\"\naddress = \"{address}\"\napi_key_sha256 = \"{key}\"\n"
            )?;
        }
        text.push_str(more);
        write(folder.join("control-plane.toml"), &text)
    }

    fn write_edge(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let (key, state) = (folder.join("edge-key"), folder.join("edge"));
        fs::write(&key, EDGE)?;
        let text = format!(
            r#"
[log]
filter = "error"
[control_plane]
url = "http://{}"
name = "{EDGE}"
api_key_file = "{}"
[ingress]
http = "{}"
[state]
dir = "{}"
"#,
            self.internal,
            key.display(),
            self.ingress,
            state.display()
        );
        write(folder.join("edge.toml"), &text)
    }
}

/// Name, which is its API key too, and address of a declared worker that no job is for.
#[must_use]
pub fn crowd_member(number: u16) -> (String, Ipv4Addr) {
    let [high, low] = number.to_be_bytes();
    (format!("crowd-{number}"), Ipv4Addr::new(127, 1, high, low))
}

async fn is_healthy(client: &Client, addresses: &Addresses) -> bool {
    let answer = client.get(format!("http://{}/healthz", addresses.public)).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

fn write(path: PathBuf, text: &str) -> anyhow::Result<PathBuf> {
    fs::write(&path, text)?;
    Ok(path)
}

/// What the control plane knows of a node's API key.
#[must_use]
pub fn key_hash(api_key: &str) -> String {
    hex::encode(SigningKey::derive(api_key).as_bytes())
}

/// Starts one of our programs, and waits until it listens.
///
/// # Errors
/// It is not built or does not start.
pub fn start_program(name: &str, config: &Path, listens: SocketAddr) -> anyhow::Result<Process> {
    let mut command = Command::new(own_program(name)?);
    command.arg("--config").arg(config);
    Process::listening(command, listens)
}

fn create_token(config: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(own_program("wisehosting-control-plane")?);
    command.arg("--config").arg(config);
    command.args(["token", "create", "--email", "bench@example.org", "--name", "bench"]);
    let output = command.stderr(Stdio::inherit()).output().context("start the control plane's command")?;
    ensure!(output.status.success(), "no API token: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A Postgres with an empty database, and the address of that.
fn start_postgres(folder: &Path) -> anyhow::Result<(Process, String)> {
    let cluster =
        Cluster::prepare(Path::new("/"), &folder.join("postgres"), &folder.join("postgres-socket"))?;
    let (user, group) = cluster.user();
    let command = |(program, arguments): (PathBuf, Vec<String>)| {
        let mut command = Command::new(program);
        command.args(arguments).uid(user).gid(group).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let finish = |mut command: Command| {
        let status = command.status().context("start a program of Postgres")?;
        ensure!(status.success(), "{} failed", command.get_program().display());
        Ok(())
    };
    finish(command(cluster.initdb()))?;
    let server = Process::ready(command(cluster.server()), || cluster.is_ready())?;
    finish(command(cluster.createdb()))?;
    Ok((server, cluster.url()))
}
