//! An engine in memory, for tests that are about something else than Podman.
//!
//! It understands just enough of a Dockerfile to behave alike: `EXPOSE`, `RUN exit <n>`, and a `CMD` whose last word is
//! a script of `echo <words>` and `exit <n>`; any other command runs until it is stopped. Invariant: it keeps the
//! promises of [`Engine`] that the contract suite checks, and does nothing by itself: no time passes in it.

use crate::{
    engine::{
        BaseImage, Build, BuildBounds, BuildError, Container, ContainerId, ContainerList, ContainerSpec,
        ContainerState, Engine, EngineError, Image, ImageId, Network, Storage, StoredImage,
    },
    log::{LogBatch, LogLine, LogPosition, LogStream},
    podman::HelperGroup,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};

/// An engine in memory. Clones are the same engine.
#[derive(Clone, Debug, Default)]
pub struct FakeEngine {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    away: bool,
    faults: Faults,
    refused_starts: watch::Sender<u32>,
    held_builds: Option<Arc<Semaphore>>,
    building: watch::Sender<Building>,
    images: BTreeMap<ImageId, FakeImage>,
    containers: BTreeMap<ContainerId, FakeContainer>,
    made: u64,
}

/// What it does wrong.
#[derive(Debug, Default)]
struct Faults {
    refuses_starts: bool,
    /// Those that it hangs on when it is to start them.
    held: BTreeSet<ContainerId>,
    /// Those that it does not tell of.
    hidden: BTreeSet<ContainerId>,
    /// Whether it hangs when it is to remove something.
    holds_removals: bool,
    /// Those that it does not remove.
    stuck_images: BTreeSet<ImageId>,
}

/// How many builds the engine is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Building {
    /// Now.
    pub now: usize,
    /// At most, so far.
    pub most: usize,
}

#[derive(Debug)]
struct FakeImage {
    image: Image,
    /// What its containers run.
    script: String,
}

#[derive(Debug)]
struct FakeContainer {
    container: Container,
    name: String,
    script: String,
    log: Vec<LogLine>,
    written_bytes: u64,
}

impl FakeEngine {
    /// Whether it answers, as if its service had been stopped.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
        self.changed.notify_waiters();
    }

    /// Whether it refuses to start containers again, as if its disk were full. Answers how often it has done so.
    pub fn refuse_starts(&self, refuse: bool) -> watch::Receiver<u32> {
        let mut state = self.lock();
        state.faults.refuses_starts = refuse;
        state.refused_starts.subscribe()
    }

    /// Is at work on this container from now on, and tells of the others only, as if it had never been asked for it before.
    pub fn hide(&self, id: &ContainerId) {
        self.lock().faults.hidden.insert(id.clone());
        self.changed.notify_waiters();
    }

    /// Tells of all containers again.
    pub fn hide_none(&self) {
        self.lock().faults.hidden.clear();
        self.changed.notify_waiters();
    }

    /// Refuses from now on to remove this image, as if its layers were damaged.
    pub fn refuse_removal_of(&self, id: &ImageId) {
        self.lock().faults.stuck_images.insert(id.clone());
    }

    /// Whether it hangs when it is to remove something.
    pub fn hold_removals(&self, hold: bool) {
        self.lock().faults.holds_removals = hold;
        self.changed.notify_waiters();
    }

    async fn removals_go_on(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.lock().faults.holds_removals {
                return;
            }
            changed.await;
        }
    }

    /// Hangs from now on when it is to start this container again.
    pub fn hold_starts_of(&self, id: &ContainerId) {
        self.lock().faults.held.insert(id.clone());
    }

    /// Hangs from now on in each build, until it is to [end one](Self::release_build). Answers how many it is at.
    pub fn hold_builds(&self) -> watch::Receiver<Building> {
        let mut state = self.lock();
        state.held_builds.get_or_insert_with(|| Arc::new(Semaphore::new(0)));
        state.building.subscribe()
    }

    /// Lets one of the builds end in which it hangs, or the next one go on.
    pub fn release_build(&self) {
        if let Some(held) = &self.lock().held_builds {
            held.add_permits(1);
        }
    }

    /// Ends the program of a container, as if it had crashed.
    pub fn crash(&self, id: &ContainerId, code: i64) {
        self.crash_unnoticed(id, code);
        self.changed.notify_waiters();
    }

    /// The same, and tells nobody of it: that event is lost.
    pub fn crash_unnoticed(&self, id: &ContainerId, code: i64) {
        if let Some(found) = self.lock().containers.get_mut(id) {
            found.container.state = ContainerState::Exited { code, out_of_memory: false };
        }
    }

    /// Has the program of a container write to its disk.
    pub fn write(&self, id: &ContainerId, bytes: u64) {
        if let Some(found) = self.lock().containers.get_mut(id) {
            found.written_bytes += bytes;
        }
    }

    /// Ends the program of a container, as the kernel does when it uses too much memory.
    pub fn run_out_of_memory(&self, id: &ContainerId) {
        if let Some(found) = self.lock().containers.get_mut(id) {
            found.container.state = ContainerState::Exited { code: 137, out_of_memory: true };
        }
        self.changed.notify_waiters();
    }

    /// Makes a container and does not start it: what is left when whoever wanted it is gone in between.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let id = self.answering()?.create(spec)?;
        self.changed.notify_waiters();
        Ok(id)
    }

    /// How many images it has.
    #[must_use]
    pub fn image_count(&self) -> usize {
        self.lock().images.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answering(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.lock();
        if state.away {
            let socket = PathBuf::from("/run/fake.sock");
            return Err(EngineError::Away { socket, source: "set away by a test".into() });
        }
        Ok(state)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    fn container(&mut self, id: &ContainerId) -> Result<&mut FakeContainer, EngineError> {
        self.containers.get_mut(id).ok_or_else(|| EngineError::NoSuchContainer(id.clone()))
    }

    fn create(&mut self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let script = self.images.get(&spec.image).map(|image| image.script.clone());
        let script = script.ok_or_else(|| EngineError::NoSuchImage(spec.image.clone()))?;
        if self.containers.values().any(|found| found.name == spec.name) {
            let message = format!("the name {} is in use", spec.name);
            return Err(EngineError::Refused { operation: "create a container", message });
        }
        let id = ContainerId::new(format!("{:064x}", self.next()));
        let container = Container {
            id: id.clone(),
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            state: ContainerState::Created,
            published: Some(spec.published),
            network_namespace: None,
        };
        let made =
            FakeContainer { container, name: spec.name.clone(), script, log: Vec::new(), written_bytes: 0 };
        self.containers.insert(id.clone(), made);
        Ok(id)
    }

    /// As the real one, it finds out here whether the port is free.
    fn start(&mut self, id: &ContainerId) -> Result<(), EngineError> {
        let published = self.container(id)?.container.published;
        let running = |found: &&FakeContainer| found.container.state == ContainerState::Running;
        let holder = self.containers.values().filter(running).find(|c| c.container.published == published);
        match (holder.map(|holder| &holder.container.id), published) {
            (Some(holder), _) if holder == id => {}
            (Some(_), Some(published)) => return Err(EngineError::PortTaken(published)),
            _ => self.container(id)?.start(),
        }
        Ok(())
    }
}

/// Counts as a build for as long as it is there.
struct InBuild<'a>(&'a FakeEngine);

impl<'a> InBuild<'a> {
    fn begin(engine: &'a FakeEngine) -> Self {
        engine.lock().building.send_modify(|building| {
            building.now += 1;
            building.most = building.most.max(building.now);
        });
        Self(engine)
    }
}

impl Drop for InBuild<'_> {
    fn drop(&mut self) {
        self.0.lock().building.send_modify(|building| building.now -= 1);
    }
}

impl FakeContainer {
    fn start(&mut self) {
        self.container.state = ContainerState::Running;
        for command in self.script.clone().split(';').map(str::trim) {
            if let Some(text) = command.strip_prefix("echo ") {
                self.write(text);
            } else if let Some(code) = exit_code(command) {
                self.container.state = ContainerState::Exited { code, out_of_memory: false };
                return;
            } else {
                return;
            }
        }
        self.container.state = ContainerState::Exited { code: 0, out_of_memory: false };
    }

    fn write(&mut self, text: &str) {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(self.log.len().try_into().unwrap_or(0));
        self.log.push(LogLine { at, stream: LogStream::Stdout, text: text.to_owned() });
    }
}

fn exit_code(command: &str) -> Option<i64> {
    command.strip_prefix("exit ").and_then(|code| code.trim().parse().ok())
}

impl Engine for FakeEngine {
    async fn ensure_network(&self, _: &Network) -> Result<(), EngineError> {
        self.answering().map(drop)
    }

    async fn build(&self, build: &Build, log: mpsc::Sender<String>) -> Result<Image, BuildError> {
        let held = self.answering()?.held_builds.clone();
        let _building = InBuild::begin(self);
        if let Some(held) = held {
            // Never closed.
            let _ = held.acquire().await.map(SemaphorePermit::forget);
        }
        let dockerfile = fs::read_to_string(build.context.join(&build.dockerfile))
            .map_err(|_| BuildError::Dockerfile(build.dockerfile.clone()))?;
        let steps: Vec<&str> = dockerfile.lines().filter(|line| !line.trim().is_empty()).collect();
        let mut exposed_ports = Vec::new();
        let mut labels = build.labels.clone();
        let mut script = String::new();
        for (number, step) in steps.iter().enumerate() {
            // A receiver that is gone does not end the build.
            let _ = log.send(format!("STEP {}/{}: {step}", number + 1, steps.len())).await;
            match step.split_once(' ') {
                Some(("EXPOSE", port)) => exposed_ports.extend(port.trim().parse::<u16>()),
                Some(("LABEL", label)) => {
                    labels.extend(
                        label.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())),
                    );
                }
                Some(("CMD", words)) => script = last_word(words),
                Some(("RUN", command)) if exit_code(command).is_some_and(|code| code != 0) => {
                    let cause = format!("exit status {}", exit_code(command).unwrap_or_default());
                    return Err(BuildError::Step { step: (*step).to_owned(), cause });
                }
                _ => {}
            }
        }
        let mut state = self.answering()?;
        let id = ImageId::new(format!("sha256:{:064x}", state.next()));
        let image = Image { id: id.clone(), labels, exposed_ports };
        state.images.insert(id, FakeImage { image: image.clone(), script });
        Ok(image)
    }

    /// A build here never outlives its future.
    fn end_build(&self, _: &str) {}

    fn helper_group(&self, _: &str, _: BuildBounds) -> HelperGroup {
        HelperGroup::none()
    }

    fn build_written_bytes(&self, _: &str) -> u64 {
        0
    }

    async fn image(&self, id: &ImageId) -> Result<Option<Image>, EngineError> {
        let state = self.answering()?;
        let found = state.images.get(id);
        Ok(found.map(|found| found.image.clone()))
    }

    async fn remove_image(&self, id: &ImageId) -> Result<(), EngineError> {
        self.removals_go_on().await;
        let mut state = self.answering()?;
        if state.faults.stuck_images.contains(id) {
            let message = "layer not known".to_owned();
            return Err(EngineError::Refused { operation: "remove an image", message });
        }
        if !state.containers.values().any(|found| found.container.image == *id) {
            state.images.remove(id);
        }
        Ok(())
    }

    async fn images(&self, label: &str) -> Result<Vec<StoredImage>, EngineError> {
        let state = self.answering()?;
        let images = state.images.values().map(|found| &found.image);
        let labelled = images.filter(|image| image.labels.contains_key(label));
        let stored = |image: &Image| StoredImage { id: image.id.clone(), labels: image.labels.clone() };
        Ok(labelled.map(stored).collect())
    }

    /// What is built here needs no other image.
    async fn base_images(&self) -> Result<Vec<BaseImage>, EngineError> {
        self.answering().map(|_| Vec::new())
    }

    async fn run(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let mut state = self.answering()?;
        let id = state.create(spec)?;
        if let Err(error) = state.start(&id) {
            state.containers.remove(&id);
            return Err(error);
        }
        self.changed.notify_waiters();
        Ok(id)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let is_held = self.lock().faults.held.contains(id);
        if is_held {
            std::future::pending::<()>().await;
        }
        let mut state = self.answering()?;
        if state.faults.refuses_starts {
            state.refused_starts.send_modify(|count| *count += 1);
            let message = "no space left on device".to_owned();
            return Err(EngineError::Refused { operation: "start a container", message });
        }
        state.start(id)
    }

    async fn container(&self, id: &ContainerId) -> Result<Container, EngineError> {
        Ok(self.answering()?.container(id)?.container.clone())
    }

    async fn containers(&self, label: &str) -> Result<ContainerList, EngineError> {
        let state = self.answering()?;
        let all = state.containers.values().map(|found| &found.container);
        let labelled = all.filter(|container| container.labels.contains_key(label)).cloned();
        if state.faults.hidden.is_empty() {
            return Ok(ContainerList::Whole(labelled.collect()));
        }
        Ok(ContainerList::Partial(
            labelled.filter(|container| !state.faults.hidden.contains(&container.id)).collect(),
        ))
    }

    async fn written_bytes(&self, label: &str) -> Result<HashMap<ContainerId, u64>, EngineError> {
        let state = self.answering()?;
        let labelled =
            state.containers.iter().filter(|(_, found)| found.container.labels.contains_key(label));
        Ok(labelled.map(|(id, found)| (id.clone(), found.written_bytes)).collect())
    }

    async fn storage(&self) -> Result<Storage, EngineError> {
        self.answering().map(|_| Storage { dir: PathBuf::from("/"), holds_disk_limits: false })
    }

    /// There are no layers here.
    async fn remove_old_layers(&self, _: Duration) -> Result<(), EngineError> {
        self.answering().map(drop)
    }

    async fn events(&self, _: &str, changed: &Notify) -> Result<(), EngineError> {
        loop {
            let change = self.changed.notified();
            drop(self.answering()?);
            change.await;
            changed.notify_one();
        }
    }

    async fn stop(&self, id: &ContainerId, _: Duration) -> Result<(), EngineError> {
        let mut state = self.answering()?;
        let found = state.container(id)?;
        if found.container.state == ContainerState::Running {
            found.container.state = ContainerState::Exited { code: 0, out_of_memory: false };
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.removals_go_on().await;
        self.answering()?.containers.remove(id);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn log(
        &self,
        id: &ContainerId,
        mut position: LogPosition,
        follow: bool,
        batches: mpsc::Sender<LogBatch>,
    ) -> Result<(), EngineError> {
        loop {
            let changed = self.changed.notified();
            let (log, running) = {
                let mut state = self.answering()?;
                let found = state.container(id)?;
                (found.log.clone(), found.container.state == ContainerState::Running)
            };
            let read = usize::try_from(position.offset).unwrap_or(usize::MAX);
            let lines: Vec<LogLine> = log.into_iter().skip(read).collect();
            position.offset += lines.len() as u64;
            if !lines.is_empty() {
                let batch = LogBatch { lost: false, lines, position: position.clone() };
                if batches.send(batch).await.is_err() {
                    return Ok(());
                }
            }
            if !follow || !running {
                return Ok(());
            }
            changed.await;
        }
    }
}

fn last_word(words: &str) -> String {
    let list: Vec<String> = serde_json::from_str(words).unwrap_or_default();
    list.last().map_or_else(|| words.to_owned(), Clone::clone)
}
