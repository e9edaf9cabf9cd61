//! Room on the disk that holds images and containers.
//!
//! Invariants: no build begins where less is free than there must be; a file stands in for the room that collecting and
//! removing need, and is given up only for them. What cannot be measured is no reason to refuse anything.

mod building;
mod reserve;

pub(crate) use building::Building;

use crate::{collect, host::Host};
use nix::sys::statvfs::statvfs;
use reserve::Reserve;
use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::{Instant, sleep};
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
    /// Held by who collects. Before this moment the reserve is not given up again.
    collecting: tokio::sync::Mutex<Option<Instant>>,
    builds: building::Builds,
    /// Where images and containers are, once that is known.
    storage: OnceLock<PathBuf>,
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
            report(remove_layers(&host, LAYERS_KEPT).await);
            layers_at = Instant::now() + LAYERS_EVERY;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Removes what nobody needs if there is not enough room; tells if there still is not.
pub(crate) async fn make_room<E: Engine>(host: &Host<E>) -> Result<(), Full> {
    let settings = &host.settings.space;
    let mut pause = host.space.collecting.lock().await;
    // An engine that is away is a reason of its own, told by who needs it.
    let Ok(storage) = host.engine.storage().await else { return Ok(()) };
    let reserve = Reserve::new(settings, host.space.storage.get_or_init(|| storage.dir.clone()));
    let full = || {
        let (free_bytes, needed_bytes) = (reserve.free_beside_bytes(), settings.free_min_bytes);
        (free_bytes < needed_bytes).then_some(Full { free_bytes, needed_bytes })
    };
    host.space.builds.give_back(|| full().is_none()).await;
    if let Some(before) = full() {
        let is_scarce = free_bytes(&storage.dir) < SCARCE_BYTES;
        let gives_up = is_scarce && pause.is_none_or(|until| Instant::now() >= until);
        if gives_up {
            reserve.give_up();
        }
        report(collect::collect_idle(host).await);
        report(remove_layers(host, host.settings.builds.timeout).await);
        if gives_up {
            let for_nothing = reserve.free_beside_bytes() <= before.free_bytes;
            *pause = for_nothing.then(|| Instant::now() + RESERVE_PAUSE);
        }
    }
    reserve.make();
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

/// Removes layers of builds that are older than this, unless a build runs.
async fn remove_layers<E: Engine>(host: &Host<E>, age: Duration) -> Result<(), EngineError> {
    let all = u32::try_from(host.settings.builds.bounds.at_a_time).unwrap_or(u32::MAX);
    let Ok(_none_runs) = host.builds.try_acquire_many(all) else { return Ok(()) };
    host.engine.remove_old_layers(age).await
}

fn report(collected: Result<(), EngineError>) {
    if let Err(error) = collected {
        tracing::warn!(error = &error as &dyn Error, "images and layers that are not needed are left");
    }
}

/// What may still be written to the file system of this folder by root, as whom builds run.
fn free_bytes(dir: &Path) -> u64 {
    statvfs(dir).map_or(u64::MAX, |stat| stat.blocks_free().saturating_mul(stat.fragment_size()))
}
