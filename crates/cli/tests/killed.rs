//! Every program killed, as by `kill -9`, at every step of a deploy: each deployment ends, and ends once; visitors are
//! served by the old version or the new one; no container is left but the one that serves.
//!
//! One lab and one app for the whole table. A step that lasts milliseconds is held open: who would do what comes next is
//! frozen until the kill. Whoever is killed is started again at once, as a service manager would; at last a worker is when it
//! counts as lost.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use reqwest::Method;
use serde_json::Value;
use support::{command, lab::start_lab, repository::Repository, state_dir, visitor};
use tokio::time::{sleep, timeout};
use wisehosting_containers::{Engine as _, Podman};
use wisehosting_lab::{Host, Lab, program::Program};

const APP: &str = "killed";
/// Of a container: its instance.
const LABEL: &str = "wisehosting.instance";
/// Longer than a lost worker's lease, and what comes after it.
const PATIENCE: Duration = Duration::from_secs(180);
/// A change that was announced while nobody listened is seen after this long.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    ControlPlane,
    Worker,
    Podman,
    Postgres,
}

const VICTIMS: [Victim; 4] = [Victim::ControlPlane, Victim::Worker, Victim::Podman, Victim::Postgres];

/// When the victim is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    AtOnce,
    /// After the deployment has failed.
    TooLate,
}

/// When the victim is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While the deployment is in this state.
    Deployment(&'static str),
    /// While the instance before it drains or is being stopped.
    OldOneEnds,
}

impl Moment {
    /// Whether it is now, by the states of a deployment and of the instance before it.
    fn is_now(self, states: &States) -> bool {
        match self {
            Self::Deployment(state) => states.deployment == state,
            Self::OldOneEnds => ["draining", "stopping"].contains(&&*states.old),
        }
    }

    /// Whether it has been, or will not be.
    fn is_past(self, states: &States) -> bool {
        let over = ["live", "failed"].contains(&&*states.deployment);
        match self {
            Self::Deployment(state) => over || states.steps.iter().any(|step| step == state),
            Self::OldOneEnds => states.deployment == "failed" || states.old == "stopped",
        }
    }

    /// When whoever ends it is to be frozen; none to do that before anything begins.
    fn freeze_at(self) -> Option<Self> {
        match self {
            Self::Deployment("queued") => None,
            // The edge says when it serves the new instance.
            Self::Deployment("routing") => Some(Self::Deployment("checking")),
            other => Some(other),
        }
    }

    fn who_ends_it(self, lab: &Lab) -> Pid {
        let program = match self {
            Self::Deployment("routing") => &lab.programs.edge,
            _ => &lab.programs.worker,
        };
        program.pid().unwrap()
    }
}

/// What is known of a deployment and of the one before it.
#[derive(Debug)]
struct States {
    deployment: String,
    steps: Vec<String>,
    /// Of the instance before it.
    old: String,
}

/// A program that does nothing until this is dropped.
struct Frozen(Pid);

impl Frozen {
    fn new(pid: Pid) -> Self {
        signal::kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been the victim.
        let _ = signal::kill(self.0, Signal::SIGCONT);
    }
}

/// How often a moment that has passed before it could be held is waited for again.
const ATTEMPTS: usize = 8;

const MOMENTS: [Moment; 7] = [
    Moment::Deployment("queued"),
    Moment::Deployment("cloning"),
    Moment::Deployment("building"),
    Moment::Deployment("starting"),
    Moment::Deployment("checking"),
    // The result is stored, and the routes are on their way to the edge; then it serves them.
    Moment::Deployment("routing"),
    Moment::OldOneEnds,
];

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_each_deploy_ends_once_and_the_app_serves() {
    let directory = state_dir();
    let mut lab = start_lab(directory.path()).await;
    let repository = Repository::of_example("hello");
    repository.change("VERSION", "0\n");
    let deployed = command(directory.path())
        .args(["--json", "deploy", repository.path(), "--name", APP, "--memory", "64M"])
        .output()
        .unwrap();
    assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    let mut served: Value = serde_json::from_slice(&deployed.stdout).unwrap();
    let mut served_version = "0".to_owned();

    let api = Api::of(&lab);
    let visits = Visits::begin(lab.running().http_port);
    let at_once = VICTIMS.iter().flat_map(|victim| MOMENTS.map(|moment| (*victim, moment, Back::AtOnce)));
    let too_late =
        ["building", "checking"].map(|state| (Victim::Worker, Moment::Deployment(state), Back::TooLate));
    for (version, (victim, moment, back)) in (1..).zip(at_once.chain(too_late)) {
        let row = format!("{victim:?} at {moment:?}, back {back:?}");
        let mut held = false;
        for attempt in 1..=ATTEMPTS {
            let begun = Instant::now();
            repository.change("VERSION", &format!("{version}.{attempt}\n"));
            let (deployment, frozen) = deploy_until(&lab, &api, &served, moment).await;
            held = frozen.is_some();
            if frozen.is_some() {
                visits.excuse(victim == Victim::Worker);
                kill(&mut lab, victim, frozen).await;
                if back == Back::AtOnce {
                    start_again(&mut lab, victim).await;
                }
            }
            let ended = api.ends(&row, &deployment).await;
            let (outcome, message) = (&ended["state"], &ended["message"]);
            eprintln!("{row}: held {held}, ended {outcome} after {:?}: {message}", begun.elapsed());
            if held && back == Back::TooLate {
                assert!(message.to_string().contains("was lost"), "{row}: {ended}");
                start_again(&mut lab, victim).await;
            }
            if ended["state"] == "live" {
                (served, served_version) = (ended, format!("{version}.{attempt}"));
            }
            rests(&row, &lab, &api, &served).await;
            visits.answered(&row, &served_version).await;
            if held {
                break;
            }
        }
        assert!(held, "{row}: the moment always passed before it could be held");
    }
    assert_eq!(visits.end().await, Vec::<String>::new());
    api.delete().await;
    let engine = engine(&lab);
    api.until("nothing is left of the app", async || {
        let left = engine.containers(LABEL).await.map_err(|error| error.to_string())?.known();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    lab.stop().await.unwrap();
}

/// Deploys, and holds a moment of that open: answers the deployment's path, and nothing else if the moment has passed.
async fn deploy_until(lab: &Lab, api: &Api, before: &Value, moment: Moment) -> (String, Option<Frozen>) {
    let freeze = || Frozen::new(moment.who_ends_it(lab));
    let begun = moment.freeze_at().is_none().then(freeze);
    let deployment = api.deploy().await;
    let frozen = if let Some(early) = moment.freeze_at() {
        api.comes(&deployment, before, early).await;
        freeze()
    } else {
        begun.unwrap()
    };
    // The edge is frozen ahead of its moment.
    let is_held = moment.is_now(&api.comes(&deployment, before, moment).await);
    (deployment, is_held.then_some(frozen))
}

fn program(lab: &mut Lab, victim: Victim) -> (&mut Program, &Host) {
    let (programs, hosts) = (&mut lab.programs, &lab.hosts);
    match victim {
        Victim::ControlPlane => (&mut programs.control_plane, &hosts.control_plane),
        Victim::Worker => (&mut programs.worker, &hosts.worker),
        Victim::Podman => (&mut programs.podman, &hosts.worker),
        Victim::Postgres => (&mut programs.postgres, &hosts.control_plane),
    }
}

/// Kills a program, and lets who was frozen go on.
async fn kill(lab: &mut Lab, victim: Victim, frozen: Option<Frozen>) {
    program(lab, victim).0.kill().await.unwrap();
    drop(frozen);
}

/// Postgres does not start while a process of the killed one is left.
async fn start_again(lab: &mut Lab, victim: Victim) {
    let (program, host) = program(lab, victim);
    program.restart(host).unwrap();
    while victim == Victim::Postgres && timeout(LOOK_AGAIN, program.wait()).await.is_ok() {
        program.restart(host).unwrap();
    }
}

fn engine(lab: &Lab) -> Podman {
    Podman::new(lab.hosts.worker.path("/run/podman/podman.sock"))
}

/// Waits until the only container is the one that serves, and what is known of it is true.
async fn rests(row: &str, lab: &Lab, api: &Api, served: &Value) {
    let engine = engine(lab);
    let instance = served["instances"][0]["id"].as_str().unwrap();
    let path = format!("/v1/deployments/{}", served["id"].as_str().unwrap());
    api.until(&format!("{row}: only instance {instance} is left"), async || {
        let containers = engine.containers(LABEL).await.map_err(|error| error.to_string())?.known();
        let left: Vec<_> = containers.iter().map(|container| &container.labels[LABEL]).collect();
        let known = api.get(&path).await?;
        let instances = &known["instances"];
        let rests = left == [instance] && known["state"] == "live" && instances[0]["state"] == "healthy";
        if rests { Ok(()) } else { Err(format!("containers of {left:?}, {instances}")) }
    })
    .await;
}

/// The REST API of a control plane that may be away.
struct Api {
    client: reqwest::Client,
    server: String,
    token: String,
}

impl Api {
    fn of(lab: &Lab) -> Self {
        let running = lab.running();
        let token = std::fs::read_to_string(&running.token_file).unwrap().trim().to_owned();
        let client = visitor(APP, running.http_port, false);
        Self { client, server: running.dashboard_url.clone(), token }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.server)).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = async { self.request(Method::GET, path).send().await?.error_for_status()?.json().await };
        answer.await.map_err(|error| error.to_string())
    }

    /// Asks for a deployment and answers its path.
    async fn deploy(&self) -> String {
        let request = self.request(Method::POST, &format!("/v1/apps/{APP}/deployments"));
        let answer = request.json(&serde_json::json!({})).send().await.unwrap();
        let deployment: Value = answer.error_for_status().unwrap().json().await.unwrap();
        format!("/v1/deployments/{}", deployment["id"].as_str().unwrap())
    }

    async fn delete(&self) {
        let answer = self.request(Method::DELETE, &format!("/v1/apps/{APP}")).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// Waits for the moment of a deployment, or until it is past or will not come; answers the states then.
    async fn comes(&self, deployment: &str, before: &Value, moment: Moment) -> States {
        let before = format!("/v1/deployments/{}", before["id"].as_str().unwrap());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.until(&format!("{moment:?}"), async || {
            let now = self.get(deployment).await?;
            let old = self.get(&before).await?;
            let states = States {
                deployment: text(&now["state"]),
                steps: now["steps"].as_array().unwrap().iter().map(|step| text(&step["state"])).collect(),
                old: text(&old["instances"][0]["state"]),
            };
            let come = moment.is_now(&states) || moment.is_past(&states);
            if come { Ok(states) } else { Err(format!("{states:?}")) }
        })
        .await
    }

    /// Waits for the end of a deployment, of which there is one.
    async fn ends(&self, row: &str, path: &str) -> Value {
        let ended = self
            .until(&format!("{row}: its end"), async || {
                let now = self.get(path).await?;
                if now["state"] == "live" || now["state"] == "failed" {
                    Ok(now)
                } else {
                    Err(now.to_string())
                }
            })
            .await;
        let steps = ended["steps"].as_array().unwrap();
        let outcomes = steps.iter().filter(|step| step["state"] == "live" || step["state"] == "failed");
        assert_eq!(outcomes.count(), 1, "{row}: {ended}");
        assert!(ended["state"] == "live" || ended["message"].is_string(), "{row}: it says why: {ended}");
        ended
    }

    /// Looks again after every change until there is an answer; the control plane may be away meanwhile.
    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
        let mut last = String::new();
        let wait = async {
            loop {
                let listening = self.request(Method::GET, "/v1/events").send().await;
                let mut listening = listening.and_then(reqwest::Response::error_for_status).ok();
                loop {
                    match look().await {
                        Ok(found) => return found,
                        Err(now) => last = now,
                    }
                    let Some(events) = &mut listening else {
                        sleep(LOOK_AGAIN / 5).await;
                        break;
                    };
                    if matches!(timeout(LOOK_AGAIN, events.chunk()).await, Ok(Err(_) | Ok(None))) {
                        break;
                    }
                }
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("not in time: {what}; last: {last}"),
        }
    }
}

/// A visitor who asks for the page again and again, and expects an answer to every request.
struct Visits {
    seen: Arc<Seen>,
    visitor: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Failures do not count until the next answer.
    excused: AtomicBool,
    ended: AtomicBool,
    last: Mutex<String>,
    failures: Mutex<Vec<String>>,
}

impl Visits {
    fn begin(http_port: u16) -> Self {
        let seen = Arc::new(Seen::default());
        let visitor = tokio::spawn(visit(Arc::clone(&seen), http_port));
        Self { seen, visitor }
    }

    /// A worker that carries the mesh itself, where the kernel does not, takes the way to its apps along.
    fn excuse(&self, excused: bool) {
        self.seen.excused.store(excused, Ordering::SeqCst);
    }

    /// Waits until the page shows this version, as asked for from now on.
    async fn answered(&self, row: &str, version: &str) {
        self.seen.last.lock().unwrap().clear();
        let wait = async {
            while *self.seen.last.lock().unwrap() != version {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = timeout(PATIENCE, wait).await.is_ok();
        assert!(in_time, "{row}: {} instead of version {version}", self.seen.last.lock().unwrap());
        self.excuse(false);
    }

    /// What went wrong.
    async fn end(self) -> Vec<String> {
        self.seen.ended.store(true, Ordering::SeqCst);
        self.visitor.await.unwrap();
        std::mem::take(&mut *self.seen.failures.lock().unwrap())
    }
}

async fn visit(seen: Arc<Seen>, http_port: u16) {
    let client = visitor(APP, http_port, false);
    let url = format!("http://{APP}.localhost:{http_port}/");
    while !seen.ended.load(Ordering::SeqCst) {
        match page(&client, &url).await {
            Ok(version) => *seen.last.lock().unwrap() = version,
            Err(_) if seen.excused.load(Ordering::SeqCst) => {}
            Err(failure) => seen.failures.lock().unwrap().push(failure),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The version on the page, or why there is none.
async fn page(client: &reqwest::Client, url: &str) -> Result<String, String> {
    let answer = async { client.get(url).send().await?.error_for_status()?.text().await };
    let body = answer.await.map_err(|error| format!("{error:?}"))?;
    let version = body.split_once("<dd id=\"version\">").and_then(|(_, rest)| rest.split('<').next());
    version.map(|version| version.trim().to_owned()).ok_or_else(|| format!("no version: {body:.200}"))
}
