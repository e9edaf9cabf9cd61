//! Room on the disk that holds images and containers.
//!
//! Invariants: no build begins where less is free than there must be; a file stands in for the room that collecting and
//! removing need, and is given up only for them; an engine that hangs holds nobody up for long. What cannot be measured is no
//! reason to refuse anything.

mod bases;
mod building;
mod reserve;

pub(crate) use building::Building;

use crate::{collect, host::Host};
use nix::sys::statvfs::statvfs;
use reserve::Reserve;
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep, timeout},
};
use wisehosting_containers::{Engine, EngineError};

/// How often to look whether there is enough.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Below this, a transaction of the engine may find no room.
const SCARCE_BYTES: u64 = 32 * 1024 * 1024;
/// After the reserve was given up for nothing. Whatever fills the disk might take it.
const RESERVE_PAUSE: Duration = Duration::from_secs(600);
/// Layers of builds are kept this long while there is room, since they make the next build of an app faster.
const LAYERS_KEPT: Duration = Duration::from_secs(14 * 24 * 3_600);
/// How often older ones are looked for.
const LAYERS_EVERY: Duration = Duration::from_secs(3_600);
/// Longest time for one thing that is asked of the engine: whoever waits for room waits for it.
const ENGINE_MAX: Duration = Duration::from_secs(60);

/// How much room there must be.
#[derive(Clone, Debug)]
pub struct SpaceSettings {
    /// Least free space beside the reserve for a build to begin, in bytes. With less than half of it free, a build that runs is ended.
    pub free_min_bytes: u64,
    /// Size of the file that stands in for the room that collecting needs, in bytes.
    pub reserve_bytes: u64,
    /// A folder for that file. Where it is on another disk than the engine's, the engine's own is used.
    pub dir: PathBuf,
}

/// What is known of the room.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Held by who collects.
    collecting: tokio::sync::Mutex<ReserveState>,
    builds: building::Builds,
    /// Where images and containers are, once that is known.
    storage: OnceLock<PathBuf>,
}

/// How the reserve is.
#[derive(Debug, Default)]
struct ReserveState {
    /// Before this moment it is not given up again.
    kept_until: Option<Instant>,
    /// Whether it was told that it cannot be made.
    missing: bool,
}

/// There is not enough room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// What is free.
    pub(crate) free_bytes: u64,
    /// What has to be.
    pub(crate) needed_bytes: u64,
}

/// Keeps room, for ever.
pub async fn keep<E: Engine>(host: Arc<Host<E>>) {
    let mut layers_at = Instant::now();
    loop {
        // Who refuses something for it is who asks for a build.
        let _ = make_room(&host).await;
        if Instant::now() >= layers_at {
            remove("layers", remove_layers(&host, LAYERS_KEPT)).await;
            remove("base images", remove_bases(&host)).await;
            layers_at = Instant::now() + LAYERS_EVERY;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Removes what nobody needs if there is not enough room; tells if there still is not.
pub(crate) async fn make_room<E: Engine>(host: &Host<E>) -> Result<(), Full> {
    let settings = &host.settings.space;
    let mut state = host.space.collecting.lock().await;
    // An engine that is away is a reason of its own, told by who needs it.
    let Ok(Ok(storage)) = timeout(ENGINE_MAX, host.engine.storage()).await else { return Ok(()) };
    let reserve = Reserve::new(settings, host.space.storage.get_or_init(|| storage.dir.clone()));
    let full = || {
        let (free_bytes, needed_bytes) = (reserve.free_beside_bytes(), settings.free_min_bytes);
        (free_bytes < needed_bytes).then_some(Full { free_bytes, needed_bytes })
    };
    host.space.builds.give_back(|| full().is_none()).await;
    if let Some(before) = full() {
        let is_scarce = free_bytes(&storage.dir) < SCARCE_BYTES;
        let gives_up = is_scarce && state.kept_until.is_none_or(|until| Instant::now() >= until);
        if gives_up {
            reserve.give_up();
        }
        remove("images", collect::collect_idle(host)).await;
        remove("layers", remove_layers(host, host.settings.builds.timeout)).await;
        if gives_up {
            let for_nothing = reserve.free_beside_bytes() <= before.free_bytes;
            state.kept_until = for_nothing.then(|| Instant::now() + RESERVE_PAUSE);
        }
    }
    state.told(&reserve, &reserve.make());
    full().map_or(Ok(()), Err)
}

/// Gives the reserve up if there is next to nothing left: for work that frees room. It is made again when [`keep`] looks.
pub(crate) fn give_way<E>(host: &Host<E>) {
    if let Some(storage) = host.space.storage.get()
        && free_bytes(storage) < SCARCE_BYTES
    {
        Reserve::new(&host.settings.space, storage).give_up();
    }
}

impl ReserveState {
    /// Has it said once when it cannot be made.
    fn told(&mut self, reserve: &Reserve, made: &io::Result<()>) {
        if let Err(error) = made
            && !self.missing
        {
            tracing::warn!(%reserve, %error, "without a reserve, a full disk may have no room for removing what is not needed");
        }
        self.missing = made.is_err();
    }
}

/// Removes layers of builds that are older than this, unless a build runs.
async fn remove_layers<E: Engine>(host: &Host<E>, age: Duration) -> Result<(), EngineError> {
    let Some(_none_runs) = no_build(host) else { return Ok(()) };
    host.engine.remove_old_layers(age).await
}

/// Removes base images that are not needed, unless a build runs.
async fn remove_bases<E: Engine>(host: &Host<E>) -> Result<(), EngineError> {
    let Some(_none_runs) = no_build(host) else { return Ok(()) };
    bases::collect(host, LAYERS_KEPT).await
}

/// Keeps builds from beginning, if none runs.
fn no_build<E>(host: &Host<E>) -> Option<SemaphorePermit<'_>> {
    let all = u32::try_from(host.settings.builds.bounds.at_a_time).unwrap_or(u32::MAX);
    host.permits.builds.try_acquire_many(all).ok()
}

/// Removes something that nobody needs, as far as the engine does so in time. What cannot be removed is left for the next time.
pub(crate) async fn remove(what: &str, removal: impl Future<Output = Result<(), EngineError>>) {
    match timeout(ENGINE_MAX, removal).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn Error, "{what} that are not needed are left");
        }
        Err(_) => tracing::warn!("Podman takes too long to remove {what} that are not needed"),
    }
}

/// What may still be written to the file system of this folder by root, as whom builds run.
fn free_bytes(dir: &Path) -> u64 {
    statvfs(dir).map_or(u64::MAX, |stat| stat.blocks_free().saturating_mul(stat.fragment_size()))
}

/// The size of that file system.
fn size_bytes(dir: &Path) -> u64 {
    statvfs(dir).map_or(0, |stat| stat.blocks().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_hangs_is_not_waited_for() {
        let began = Instant::now();
        remove("images", std::future::pending()).await;
        assert!(began.elapsed() <= ENGINE_MAX * 2);
    }
}
