//! All containers with a label, at the price of one question.
//!
//! Podman's own list, which its Docker-compatible API does not have, tells of each container whatever changes when it starts or
//! ends. Invariants: what is answered of a container is what an inspection of it says; one is inspected anew whenever its
//! place in the list differs from the one it had before its last inspection. One that cannot be inspected hides no other:
//! of it is answered what the list says. Nor does one that Podman is at work on, for as long as that may take, although its list
//! waits for that: of it is answered what was found last, and the answer says that it is partial. What was found by a later
//! question is not forgotten for the answer to an earlier one.

use super::{ANSWER_TIMEOUT_S, Podman, answers, written::Places};
use crate::engine::{
    Container, ContainerId, ContainerList, ContainerState, Engine as _, EngineError, ImageId,
};
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{net::UnixStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// For Podman to answer to what takes it a moment: longer than that on a busy host.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found of each container.
#[derive(Clone, Debug, Default)]
pub(super) struct Inspected(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    containers: HashMap<ContainerId, Found>,
    /// The question to which that is the answer. Several may be under way.
    question: u64,
    /// How many there were.
    questions: u64,
}

/// What was found of a container.
#[derive(Clone, Debug)]
struct Found {
    /// The entry of the list that it belongs to.
    entry: Entry,
    container: Container,
    /// Where it has what it has written.
    places: Places,
}

impl Inspected {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a question that is asked now.
    fn next_question(&self) -> u64 {
        let mut known = self.lock();
        known.questions += 1;
        known.questions
    }

    /// Keeps the answer to a question, unless a later one was answered before.
    fn keep(&self, question: u64, containers: HashMap<ContainerId, Found>) {
        let mut known = self.lock();
        if question > known.question {
            known.question = question;
            known.containers = containers;
        }
    }

    /// What was found of the container when its entry was the same.
    fn of(&self, entry: &Entry) -> Option<Found> {
        let known = self.lock();
        known.containers.get(&ContainerId::new(&entry.id)).filter(|found| found.entry == *entry).cloned()
    }
}

/// A container in Podman's list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    #[serde(rename = "ImageID")]
    image: String,
    labels: Option<BTreeMap<String, String>>,
    ports: Option<Vec<Port>>,
    state: String,
    pid: i64,
    exit_code: i64,
    started_at: i64,
    exited_at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Port {
    host_ip: String,
    host_port: u16,
}

impl Entry {
    /// What is known of the container from here alone.
    fn container(self) -> Container {
        let published = self.ports.unwrap_or_default().into_iter().find_map(|port| {
            let ip: IpAddr = port.host_ip.parse().ok()?;
            Some(SocketAddr::new(ip, port.host_port))
        });
        Container {
            id: ContainerId::new(self.id),
            image: ImageId::new(format!("sha256:{}", self.image)),
            labels: self.labels.unwrap_or_default(),
            state: match self.state.as_str() {
                "running" | "paused" | "stopping" => ContainerState::Running,
                "exited" | "stopped" | "removing" => {
                    ContainerState::Exited { code: self.exit_code, out_of_memory: false }
                }
                _ => ContainerState::Created,
            },
            published,
            network_namespace: None,
        }
    }
}

/// All containers that carry a label of this name.
pub(super) async fn containers(podman: &Podman, label: &str) -> Result<ContainerList, EngineError> {
    let question = podman.inspected.next_question();
    let filters = super::percent_encode(&serde_json::json!({ "label": [label] }).to_string());
    let address = format!("containers/json?all=true&filters={filters}");
    let entries: Vec<Entry> = match timeout(PATIENCE, get(podman, "list containers", &address)).await {
        Ok(entries) => entries?,
        Err(late) => return one_by_one(podman, label, late.into()).await.map(ContainerList::Partial),
    };
    let mut all = HashMap::with_capacity(entries.len());
    let mut containers = Vec::with_capacity(entries.len());
    for entry in entries {
        let id = ContainerId::new(&entry.id);
        let found = match podman.inspected.of(&entry) {
            Some(found) => Ok(found),
            None => inspect(podman, entry.clone()).await,
        };
        match found {
            Ok(found) => {
                containers.push(found.container.clone());
                all.insert(id, found);
            }
            Err(EngineError::NoSuchContainer(_)) => {}
            Err(error @ EngineError::Away { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(container.id = %id, error = &error as &dyn Error, "a container cannot be inspected");
                containers.push(entry.container());
            }
        }
    }
    podman.inspected.keep(question, all);
    Ok(ContainerList::Whole(containers))
}

/// Where the containers with this label have what they have written, as far as that is known.
pub(super) async fn places(podman: &Podman, label: &str) -> Result<Vec<(ContainerId, Places)>, EngineError> {
    // One that is not told of is counted the next time.
    let containers = containers(podman, label).await?.known();
    let known = podman.inspected.lock();
    let places = |container: Container| {
        let found = known.containers.get(&container.id);
        (container.id, found.map(|found| found.places.clone()).unwrap_or_default())
    };
    Ok(containers.into_iter().map(places).collect())
}

async fn inspect(podman: &Podman, entry: Entry) -> Result<Found, EngineError> {
    let found = podman.inspect(&ContainerId::new(&entry.id)).await?;
    let places = answers::places(&found);
    Ok(Found { entry, container: answers::container(found), places })
}

/// The containers with a label that are known, although Podman is at work on one at least: those that it is not at work on
/// as they are. `late`: why it is not asked for its list.
async fn one_by_one(
    podman: &Podman,
    label: &str,
    late: Box<dyn Error + Send + Sync>,
) -> Result<Vec<Container>, EngineError> {
    let known: Vec<Container> =
        podman.inspected.lock().containers.values().map(|found| found.container.clone()).collect();
    let known = known.into_iter().filter(|container| container.labels.contains_key(label));
    let asked = join_all(known.map(|container| look_at(podman, container))).await;
    if asked.iter().all(|(answered, _)| !answered) {
        return Err(EngineError::Away { socket: podman.socket.clone(), source: late });
    }
    let busy = asked.iter().filter(|(answered, _)| !answered).count();
    tracing::warn!(containers = busy, "Podman does not say how these containers are: it is at work on them");
    Ok(asked.into_iter().filter_map(|(_, container)| container).collect())
}

/// Whether Podman says how a container is, and how that is; none if it is gone.
async fn look_at(podman: &Podman, known: Container) -> (bool, Option<Container>) {
    match timeout(PATIENCE, podman.container(&known.id)).await {
        Ok(Ok(container)) => (true, Some(container)),
        Ok(Err(EngineError::NoSuchContainer(_))) => (true, None),
        Ok(Err(_)) | Err(_) => (false, Some(known)),
    }
}

/// Asks Podman's own API.
async fn get<T: DeserializeOwned>(
    podman: &Podman,
    operation: &'static str,
    address: &str,
) -> Result<T, EngineError> {
    let away = |source| EngineError::Away { socket: podman.socket.clone(), source };
    let answer = timeout(Duration::from_secs(ANSWER_TIMEOUT_S), ask(podman, address)).await;
    let (status, body) = answer.map_err(|late| away(late.into()))?.map_err(away)?;
    if !status.is_success() {
        return Err(answers::refused(operation, &body));
    }
    serde_json::from_slice(&body).map_err(|e| answers::not_understood(operation, &e))
}

async fn ask(podman: &Podman, address: &str) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    let stream = UnixStream::connect(&podman.socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(format!("/v4.0.0/libpod/{address}")).header(HOST, "podman");
    let answer = sender.send_request(request.body(Empty::<&[u8]>::new())?).await?;
    Ok((answer.status(), answer.into_body().collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
        sync::Notify,
    };

    /// A Podman with two containers, `a` and `b`, that answers until it hangs on `a`.
    struct Hanging {
        podman: Podman,
        shared: Arc<Shared>,
        _dir: tempfile::TempDir,
    }

    #[derive(Default)]
    struct Shared {
        hangs: AtomicBool,
        /// Whether the next list is made before there is a `b`, and given when that is called for.
        lags: AtomicBool,
        lagging: Notify,
        goes_on: Notify,
    }

    impl Hanging {
        fn start() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let socket = dir.path().join("podman.sock");
            let listener = UnixListener::bind(&socket).expect("a socket");
            let shared = Arc::<Shared>::default();
            let serving = shared.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, serving.clone()));
                }
            });
            Self { podman: Podman::new(socket), shared, _dir: dir }
        }
    }

    /// The states of all containers, and whether they are all.
    async fn states(podman: &Podman) -> (Vec<ContainerState>, bool) {
        let list = podman.containers("l").await.expect("a list");
        let is_whole = list.is_whole();
        let mut all = list.known();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        (all.into_iter().map(|container| container.state).collect(), is_whole)
    }

    async fn serve(mut stream: UnixStream, shared: Arc<Shared>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let hangs = shared.hangs.load(Ordering::Relaxed);
        let body = if path.contains("libpod") {
            let entry = |id| {
                serde_json::json!({
                    "Id": id, "ImageID": "i", "Labels": { "l": "" }, "Ports": null, "State": "running",
                    "Pid": 7, "ExitCode": 0, "StartedAt": 1, "ExitedAt": 0
                })
            };
            if shared.lags.swap(false, Ordering::Relaxed) {
                shared.lagging.notify_one();
                shared.goes_on.notified().await;
                serde_json::json!([entry("a")])
            } else {
                serde_json::json!([entry("a"), entry("b")])
            }
        } else {
            let id = if path.contains("/a/") { "a" } else { "b" };
            let state = if hangs { "exited" } else { "running" };
            serde_json::json!({
                "Id": id, "Config": { "Labels": { "l": "" } }, "State": { "Status": state, "ExitCode": 3 }
            })
        };
        if hangs && (path.contains("libpod") || path.contains("/a/")) {
            // As while it starts `a`: what looks at that container waits.
            return std::future::pending().await;
        }
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    #[tokio::test]
    async fn a_container_that_podman_hangs_on_hides_no_other() {
        let engine = Hanging::start();
        assert_eq!(states(&engine.podman).await, (vec![ContainerState::Running; 2], true));
        engine.shared.hangs.store(true, Ordering::Relaxed);
        let ended = ContainerState::Exited { code: 3, out_of_memory: false };
        assert_eq!(states(&engine.podman).await, (vec![ContainerState::Running, ended], false));
    }

    #[tokio::test]
    async fn a_slow_answer_does_not_undo_a_later_one() {
        let engine = Hanging::start();
        engine.shared.lags.store(true, Ordering::Relaxed);
        let podman = engine.podman.clone();
        let slow = tokio::spawn(async move { states(&podman).await });
        engine.shared.lagging.notified().await;
        assert_eq!(states(&engine.podman).await.0.len(), 2);
        engine.shared.goes_on.notify_one();
        assert_eq!(slow.await.expect("answered").0.len(), 1);
        engine.shared.hangs.store(true, Ordering::Relaxed);
        assert_eq!(states(&engine.podman).await.0.len(), 2, "both are still known");
    }
}
