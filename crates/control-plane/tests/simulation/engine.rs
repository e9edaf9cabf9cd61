//! The engine of a simulated host: the one in memory, in which time passes, that is killed, that goes on with what nobody
//! waits for any more, and that nobody may misuse.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::sleep,
};
use wisehosting_containers::{
    BaseImage, Build, BuildBounds, BuildError, Container, ContainerId, ContainerList, ContainerSpec,
    ContainerState, Engine, EngineError, HelperGroup, Image, ImageId, LogBatch, LogPosition, Network,
    Storage, StoredImage, fake::FakeEngine,
};

use crate::random::Random;

pub(crate) const LABEL_INSTANCE: &str = "wisehosting.instance";
const LABEL_ORIGIN: &str = "wisehosting.origin";

/// A clone is the same engine; it outlives the worker.
#[derive(Clone)]
pub(crate) struct SimulatedEngine {
    pub(crate) fake: FakeEngine,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    random: Random,
    away: bool,
    /// Builds that run, by their app.
    builds: BTreeMap<String, usize>,
    broken: Vec<String>,
    /// The instances whose programs were asked to end, until somebody looks.
    asked_to_end: Vec<String>,
    left: Left,
}

/// What it was asked for by somebody who waits no longer.
#[derive(Default)]
struct Left {
    requests: VecDeque<Request>,
    /// How many of them came since somebody looked.
    new: usize,
}

/// What it may go on with.
enum Request {
    Create(ContainerSpec),
    Start(ContainerId),
}

impl SimulatedEngine {
    pub(crate) fn new(random: Random) -> Self {
        let (builds, broken, asked_to_end, left) = Default::default();
        let shared = Shared { random, away: false, builds, broken, asked_to_end, left };
        Self { fake: FakeEngine::default(), shared: Arc::new(Mutex::new(shared)) }
    }

    pub(crate) fn set_away(&self, away: bool) {
        let mut shared = self.shared();
        shared.away = away;
        shared.left.requests.clear();
        drop(shared);
        self.fake.set_away(away);
    }

    pub(crate) fn is_away(&self) -> bool {
        self.shared().away
    }

    /// The worker was killed, and what it waited for with it.
    pub(crate) fn forget_builds(&self) {
        self.shared().builds.clear();
    }

    /// What was asked of it that nobody may ask.
    pub(crate) fn broken(&self) -> Option<String> {
        self.shared().broken.first().cloned()
    }

    /// The instances whose running programs were asked to end since the last look.
    pub(crate) fn asked_to_end(&self) -> Vec<String> {
        std::mem::take(&mut self.shared().asked_to_end)
    }

    /// With how many requests more it goes on although nobody waits for them, since the last look.
    pub(crate) fn newly_left(&self) -> usize {
        std::mem::take(&mut self.shared().left.new)
    }

    /// Whether it is at work for nobody.
    pub(crate) fn has_left(&self) -> bool {
        !self.shared().left.requests.is_empty()
    }

    /// Ends the oldest request that nobody waits for; what it has done, if it could.
    pub(crate) fn go_on(&self) -> Option<&'static str> {
        let request = self.shared().left.requests.pop_front()?;
        let (done, what) = match request {
            Request::Create(spec) => (self.fake.create(&spec).map(drop), "creates a container"),
            Request::Start(id) => {
                (self.fake.start(&id).now_or_never().expect("no time passes in it"), "starts a container")
            }
        };
        self.look_for_twins();
        done.is_ok().then_some(what)
    }

    /// All containers, as who stands before the machine sees them.
    pub(crate) fn all(&self) -> Vec<Container> {
        let containers = self.fake.containers(LABEL_INSTANCE).now_or_never().expect("no time passes in it");
        containers.expect("it is not away").known()
    }

    /// Whether the program of an instance runs.
    pub(crate) fn runs(&self, instance: &str) -> bool {
        self.any_runs(|container| container.labels[LABEL_INSTANCE] == instance)
    }

    /// Whether a program takes connections at this address.
    pub(crate) fn accepts(&self, address: SocketAddr) -> bool {
        self.any_runs(|container| container.published == Some(address))
    }

    fn any_runs(&self, which: impl Fn(&Container) -> bool) -> bool {
        !self.is_away() && self.all().iter().any(|c| c.state == ContainerState::Running && which(c))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    async fn pass(&self, longest_ms: u64) {
        let wait_ms = self.shared().random.below(longest_ms);
        sleep(Duration::from_millis(wait_ms)).await;
    }

    /// What was done was done, also if nobody is told of it any more.
    async fn answer<T>(&self, done: T) -> Result<T, EngineError> {
        self.pass(20).await;
        if self.is_away() {
            return Err(EngineError::Away { socket: PathBuf::new(), source: "it was killed".into() });
        }
        Ok(done)
    }

    /// Creates a container as the seam to Podman does: one that nobody waits for any more is removed again.
    async fn created(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let (told, created) = oneshot::channel();
        let (engine, spec) = (self.clone(), spec.clone());
        tokio::spawn(async move {
            if let Err(Ok(id)) = told.send(engine.create(spec).await) {
                let _ = engine.remove(&id).await;
            }
        });
        created.await.expect("it lives as long as the program")
    }

    async fn create(&self, spec: ContainerSpec) -> Result<ContainerId, EngineError> {
        let asked = Asked::begin(self, Request::Create(spec.clone()));
        self.pass(300).await;
        asked.end();
        let made = self.fake.create(&spec)?;
        self.look_for_twins();
        self.answer(made).await
    }

    fn look_for_twins(&self) {
        let mut instances: Vec<String> =
            self.all().iter().map(|container| container.labels[LABEL_INSTANCE].clone()).collect();
        instances.sort();
        if let Some(twins) = instances.windows(2).find(|pair| pair[0] == pair[1]) {
            self.shared().broken.push(format!("instance {} has two containers", twins[0]));
        }
    }
}

/// A build that runs; it ends with its future.
struct Building<'a>(&'a SimulatedEngine, String);

impl<'a> Building<'a> {
    fn begin(engine: &'a SimulatedEngine, build: &Build) -> Self {
        let app = build.labels[LABEL_ORIGIN].split(' ').next().unwrap().to_owned();
        let mut shared = engine.shared();
        let running = shared.builds.entry(app.clone()).or_default();
        *running += 1;
        if *running > 1 {
            shared.broken.push(format!("two builds of app {app} run side by side"));
        }
        drop(shared);
        Self(engine, app)
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.0.shared().builds.get_mut(&self.1) {
            *running = running.saturating_sub(1);
        }
    }
}

/// Something that the engine is at. It may go on with it when whoever has asked is gone.
struct Asked<'a> {
    engine: &'a SimulatedEngine,
    request: Option<Request>,
}

impl<'a> Asked<'a> {
    fn begin(engine: &'a SimulatedEngine, request: Request) -> Self {
        Self { engine, request: Some(request) }
    }

    fn end(mut self) {
        self.request = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        let mut shared = self.engine.shared();
        // It may not have heard of it yet.
        if !shared.away && shared.random.once_in(2) {
            shared.left.requests.push_back(request);
            shared.left.new += 1;
        }
    }
}

impl Engine for SimulatedEngine {
    async fn ensure_network(&self, network: &Network) -> Result<(), EngineError> {
        self.fake.ensure_network(network).await
    }

    async fn build(&self, build: &Build, log: mpsc::Sender<String>) -> Result<Image, BuildError> {
        let _building = Building::begin(self, build);
        self.pass(6_000).await;
        let built = self.fake.build(build, log).await?;
        Ok(self.answer(built).await?)
    }

    fn end_build(&self, name: &str) {
        self.fake.end_build(name);
    }

    async fn image(&self, id: &ImageId) -> Result<Option<Image>, EngineError> {
        self.pass(20).await;
        self.fake.image(id).await
    }

    async fn remove_image(&self, id: &ImageId) -> Result<(), EngineError> {
        self.pass(50).await;
        self.fake.remove_image(id).await?;
        self.answer(()).await
    }

    async fn images(&self, label: &str) -> Result<Vec<StoredImage>, EngineError> {
        self.pass(20).await;
        self.fake.images(label).await
    }

    async fn base_images(&self) -> Result<Vec<BaseImage>, EngineError> {
        self.fake.base_images().await
    }

    async fn run(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let id = self.created(spec).await?;
        let Err(error) = self.start(&id).await else { return Ok(id) };
        let _ = self.remove(&id).await;
        Err(error)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let asked = Asked::begin(self, Request::Start(id.clone()));
        self.pass(100).await;
        asked.end();
        self.fake.start(id).await?;
        self.answer(()).await
    }

    async fn container(&self, id: &ContainerId) -> Result<Container, EngineError> {
        self.fake.container(id).await
    }

    async fn containers(&self, label: &str) -> Result<ContainerList, EngineError> {
        self.pass(20).await;
        self.fake.containers(label).await
    }

    async fn written_bytes(&self, label: &str) -> Result<HashMap<ContainerId, u64>, EngineError> {
        self.fake.written_bytes(label).await
    }

    async fn storage(&self) -> Result<Storage, EngineError> {
        self.fake.storage().await
    }

    async fn remove_old_layers(&self, age: Duration) -> Result<(), EngineError> {
        self.fake.remove_old_layers(age).await
    }

    fn helper_group(&self, build: &str, bounds: BuildBounds) -> HelperGroup {
        self.fake.helper_group(build, bounds)
    }

    fn build_written_bytes(&self, name: &str) -> u64 {
        self.fake.build_written_bytes(name)
    }

    async fn events(&self, label: &str, changed: &Notify) -> Result<(), EngineError> {
        self.fake.events(label, changed).await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let all = self.all();
        let running = all.iter().find(|c| c.id == *id && c.state == ContainerState::Running);
        let instance = running.map(|container| container.labels[LABEL_INSTANCE].clone());
        let slow = {
            let mut shared = self.shared();
            shared.asked_to_end.extend(instance);
            shared.random.once_in(4)
        };
        self.pass(if slow { 10_000 } else { 200 }).await;
        self.fake.stop(id, grace).await?;
        self.answer(()).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.pass(100).await;
        self.fake.remove(id).await?;
        self.answer(()).await
    }

    async fn log(
        &self,
        id: &ContainerId,
        from: LogPosition,
        follow: bool,
        batches: mpsc::Sender<LogBatch>,
    ) -> Result<(), EngineError> {
        self.fake.log(id, from, follow, batches).await
    }
}
