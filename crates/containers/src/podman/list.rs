//! All containers with a label, at the price of one question.
//!
//! Podman's own list, which its Docker-compatible API does not have, tells of each container whatever changes when it starts or
//! ends. Invariants: what is answered of a container is what an inspection of it says; one is inspected anew whenever its
//! place in the list differs from the one it had before its last inspection. One that cannot be inspected hides no other:
//! of it is answered what the list says.

use super::{ANSWER_TIMEOUT_S, Podman, answers};
use crate::engine::{Container, ContainerId, ContainerState, Engine as _, EngineError, ImageId};
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

/// What was found of each container, and the entry of the list that it belongs to.
#[derive(Clone, Debug, Default)]
pub(super) struct Inspected(Arc<Mutex<HashMap<ContainerId, (Entry, Container)>>>);

impl Inspected {
    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, (Entry, Container)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found of the container when its entry was the same.
    fn of(&self, entry: &Entry) -> Option<Container> {
        let known = self.lock();
        let (before, container) = known.get(&ContainerId::new(&entry.id))?;
        (before == entry).then(|| container.clone())
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
pub(super) async fn containers(podman: &Podman, label: &str) -> Result<Vec<Container>, EngineError> {
    let filters = super::percent_encode(&serde_json::json!({ "label": [label] }).to_string());
    let entries: Vec<Entry> =
        get(podman, "list containers", &format!("containers/json?all=true&filters={filters}")).await?;
    let mut found = HashMap::with_capacity(entries.len());
    let mut containers = Vec::with_capacity(entries.len());
    for entry in entries {
        let id = ContainerId::new(&entry.id);
        let inspected = match podman.inspected.of(&entry) {
            Some(container) => Ok(container),
            None => podman.container(&id).await,
        };
        match inspected {
            Ok(container) => {
                containers.push(container.clone());
                found.insert(id, (entry, container));
            }
            Err(EngineError::NoSuchContainer(_)) => {}
            Err(error @ EngineError::Away { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(container.id = %id, error = &error as &dyn Error, "a container cannot be inspected");
                containers.push(entry.container());
            }
        }
    }
    *podman.inspected.lock() = found;
    Ok(containers)
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
