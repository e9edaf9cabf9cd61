//! All containers with a label, at the price of one question.
//!
//! Podman's own list, which its Docker-compatible API does not have, tells of each container whatever changes when it starts or
//! ends. Invariants: what is answered of a container is what an inspection of it says; one is inspected anew whenever its
//! place in the list differs from the one it had before its last inspection. One that cannot be inspected hides no other:
//! of it is answered what the list says. Nor does one that Podman is at work on, for as long as that may take, although its list
//! waits for that: of it is answered what was found last, and the answer says that it is partial. Where nothing was found
//! before, as by a program that has just started, the list is asked for in parts, of which only that one's waits. What was
//! found by a later question is not forgotten for the answer to an earlier one.

use super::{ANSWER_TIMEOUT_S, Podman, answers, written::Places};
use crate::engine::{
    Container, ContainerId, ContainerList, ContainerState, Engine as _, EngineError, ImageId,
};
use futures_util::{
    future::join_all,
    stream::{self, StreamExt as _},
};
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
/// Containers that are inspected at a time.
const INSPECTED_AT_ONCE: usize = 8;
/// The list is asked for in parts by the digits that identifiers begin with, and a part that waits in smaller ones: after this
/// many digits hardly any other container is in it.
const PART_DIGITS: usize = 3;
/// Parts that may wait before Podman is not asked for smaller ones.
const PARTS_MAX: usize = 4;

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

    /// Keeps what was found by a question that was not answered whole, beside what is known.
    fn add(&self, question: u64, containers: HashMap<ContainerId, Found>) {
        let mut known = self.lock();
        if question > known.question {
            known.question = question;
            known.containers.extend(containers);
        }
    }

    /// The containers with a label that were found.
    fn labelled(&self, label: &str) -> Vec<Container> {
        let known = self.lock();
        let known = known.containers.values().map(|found| &found.container);
        known.filter(|container| container.labels.contains_key(label)).cloned().collect()
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
    match timeout(PATIENCE, entries(podman, label, "")).await {
        Ok(entries) => {
            let (containers, found) = look_at_all(podman, entries?).await?;
            podman.inspected.keep(question, found);
            Ok(ContainerList::Whole(containers))
        }
        Err(late) => {
            let containers = match one_by_one(podman, label).await {
                Some(containers) => containers,
                None => in_parts(podman, label, question, late.into()).await?,
            };
            Ok(ContainerList::Partial(containers))
        }
    }
}

/// Podman's list of the containers with a label whose identifiers begin with these digits.
async fn entries(podman: &Podman, label: &str, digits: &str) -> Result<Vec<Entry>, EngineError> {
    let mut filters = serde_json::json!({ "label": [label] });
    if !digits.is_empty() {
        filters["id"] = serde_json::json!([format!("^{digits}")]);
    }
    let filters = super::percent_encode(&filters.to_string());
    get(podman, "list containers", &format!("containers/json?all=true&filters={filters}")).await
}

/// What is there of these containers, and as much of it as is worth to be kept.
async fn look_at_all(
    podman: &Podman,
    entries: Vec<Entry>,
) -> Result<(Vec<Container>, HashMap<ContainerId, Found>), EngineError> {
    let looks = entries.into_iter().map(|entry| async {
        let found = match podman.inspected.of(&entry) {
            Some(found) => Ok(Ok(found)),
            None => timeout(PATIENCE, inspect(podman, entry.clone())).await,
        };
        (entry, found)
    });
    let mut looks = stream::iter(looks.collect::<Vec<_>>()).buffered(INSPECTED_AT_ONCE);
    let (mut all, mut kept) = (Vec::new(), HashMap::new());
    while let Some((entry, found)) = looks.next().await {
        let error: Box<dyn Error + Send + Sync> = match found {
            Ok(Ok(found)) => {
                all.push(found.container.clone());
                kept.insert(found.container.id.clone(), found);
                continue;
            }
            Ok(Err(EngineError::NoSuchContainer(_))) => continue,
            Ok(Err(error @ EngineError::Away { .. })) => return Err(error),
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        tracing::warn!(container.id = %entry.id, error = &*error as &dyn Error, "a container cannot be inspected");
        all.push(entry.container());
    }
    Ok((all, kept))
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
/// as they are. None if it says nothing of any.
async fn one_by_one(podman: &Podman, label: &str) -> Option<Vec<Container>> {
    let known = podman.inspected.labelled(label).into_iter();
    let asked = join_all(known.map(|container| look_at(podman, container))).await;
    let busy = asked.iter().filter(|(answered, _)| !answered).count();
    if busy == asked.len() {
        return None;
    }
    tracing::warn!(containers = busy, "Podman does not say how these containers are: it is at work on them");
    Some(asked.into_iter().filter_map(|(_, container)| container).collect())
}

/// The containers with a label, but for those that Podman is at work on and that were never found. `late`: why it is not
/// asked for its list.
async fn in_parts(
    podman: &Podman,
    label: &str,
    question: u64,
    late: Box<dyn Error + Send + Sync>,
) -> Result<Vec<Container>, EngineError> {
    let (mut listed, mut answered) = (Vec::new(), false);
    let mut waiting = vec![String::new()];
    for _ in 0..PART_DIGITS {
        let parts = waiting.iter().flat_map(|part| (0..16).map(move |digit| format!("{part}{digit:x}")));
        let asked = parts.map(|part| async {
            let entries = timeout(PATIENCE, entries(podman, label, &part)).await;
            (part, entries)
        });
        let asked = join_all(asked.collect::<Vec<_>>()).await;
        waiting.clear();
        for (part, entries) in asked {
            if let Ok(Ok(entries)) = entries {
                answered = true;
                listed.extend(entries);
            } else {
                waiting.push(part);
            }
        }
        if waiting.is_empty() || waiting.len() > PARTS_MAX {
            break;
        }
    }
    if !answered {
        return Err(EngineError::Away { socket: podman.socket.clone(), source: late });
    }
    tracing::warn!(parts = ?waiting, "Podman says nothing of the containers whose identifiers begin with these digits: it is at work on one");
    let waits = |id: &ContainerId| waiting.iter().any(|part| id.as_str().starts_with(part));
    let mut all: Vec<Container> = podman.inspected.labelled(label);
    all.retain(|known| waits(&known.id));
    let (found, kept) = look_at_all(podman, listed).await?;
    podman.inspected.add(question, kept);
    all.extend(found);
    Ok(all)
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

    /// A Podman with two containers, one of digits `a` and one of digits `b`, that answers until it hangs on the first.
    struct Hanging {
        podman: Podman,
        shared: Arc<Shared>,
        _dir: tempfile::TempDir,
    }

    #[derive(Default)]
    struct Shared {
        hangs: AtomicBool,
        /// Whether that is only when it is to inspect it.
        lists: AtomicBool,
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
        // The digits behind `"^`.
        let wanted = path.split_once("%22%5E").and_then(|(_, rest)| rest.split('%').next());
        let wanted = wanted.unwrap_or_default().to_owned();
        let body = if path.contains("libpod") {
            let entry = |digit: &str| {
                serde_json::json!({
                    "Id": digit.repeat(64), "ImageID": "i", "Labels": { "l": "" }, "Ports": null, "State": "running",
                    "Pid": 7, "ExitCode": 0, "StartedAt": 1, "ExitedAt": 0
                })
            };
            if shared.lags.swap(false, Ordering::Relaxed) {
                shared.lagging.notify_one();
                shared.goes_on.notified().await;
                serde_json::json!([entry("a")])
            } else {
                let wanted = |digit: &&str| digit.repeat(64).starts_with(&wanted);
                serde_json::Value::from_iter(["a", "b"].iter().copied().filter(wanted).map(entry))
            }
        } else {
            let id = if path.contains("/aaa") { "a" } else { "b" }.repeat(64);
            let state = if hangs { "exited" } else { "running" };
            serde_json::json!({
                "Id": id, "Config": { "Labels": { "l": "" } }, "State": { "Status": state, "ExitCode": 3 }
            })
        };
        let looks_at_it = if path.contains("libpod") {
            !shared.lists.load(Ordering::Relaxed) && "a".repeat(64).starts_with(&wanted)
        } else {
            path.contains("/aaa")
        };
        if hangs && looks_at_it {
            // As while it starts that container: what looks at it waits.
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
    async fn nor_if_it_has_hung_since_before_it_was_first_asked() {
        let engine = Hanging::start();
        engine.shared.hangs.store(true, Ordering::Relaxed);
        let ended = ContainerState::Exited { code: 3, out_of_memory: false };
        assert_eq!(states(&engine.podman).await, (vec![ended], false));
        let known = engine.podman.inspected.labelled("l");
        assert_eq!(known.len(), 1, "the next time it is asked for that one alone");
        engine.shared.hangs.store(false, Ordering::Relaxed);
        assert_eq!(states(&engine.podman).await.0.len(), 2);
    }

    #[tokio::test]
    async fn of_one_that_podman_hangs_on_when_it_is_to_inspect_it_the_list_tells() {
        let engine = Hanging::start();
        engine.shared.lists.store(true, Ordering::Relaxed);
        engine.shared.hangs.store(true, Ordering::Relaxed);
        let ended = ContainerState::Exited { code: 3, out_of_memory: false };
        assert_eq!(states(&engine.podman).await, (vec![ContainerState::Running, ended], true));
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
