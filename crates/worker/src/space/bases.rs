//! Images that builds have begun with: kept while something is made of them, and some time longer.
//!
//! Invariants: an image that nothing was ever seen to be made of is somebody else's, and stays; one that was in use lately
//! stays, too, since the next build may begin with it.

use crate::{host::Host, journal};
use std::{collections::BTreeMap, error::Error, fs, path::Path, time::Duration};
use wisehosting_containers::{BaseImage, Engine, EngineError, ImageId};

const FILE: &str = "base-images.json";

/// When each was last seen in use, in milliseconds since the Unix epoch.
type LastUsed = BTreeMap<String, u64>;

/// Removes those that have not been in use for so long. Not while a build runs, which may be about to use one.
pub(super) async fn collect<E: Engine>(host: &Host<E>, kept: Duration) -> Result<(), EngineError> {
    let file = host.settings.space.dir.join(FILE);
    let before = read(&file);
    let found = host.engine.base_images().await?;
    let (last_used, idle) = idle(&before, found, host.clock.now_ms(), kept);
    if last_used != before
        && let Err(error) = journal::write(&file, &last_used)
    {
        tracing::warn!(error = &error as &dyn Error, "base images may be kept longer than needed");
    }
    for image in idle {
        tracing::info!(image.id = %image, "removing a base image that nothing has been made of for long");
        host.engine.remove_image(&image).await?;
    }
    Ok(())
}

/// What is written there; nothing if that cannot be read.
fn read(file: &Path) -> LastUsed {
    let text = fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// What is known now of those that are there, and which of them have not been in use for so long.
fn idle(before: &LastUsed, found: Vec<BaseImage>, now_ms: u64, kept: Duration) -> (LastUsed, Vec<ImageId>) {
    let mut last_used = LastUsed::new();
    let mut idle = Vec::new();
    for image in found {
        let id = image.id.to_string();
        let at = if image.in_use { Some(now_ms) } else { before.get(&id).copied() };
        let Some(at) = at else { continue };
        last_used.insert(id, at);
        if Duration::from_millis(now_ms.saturating_sub(at)) > kept {
            idle.push(image.id);
        }
    }
    (last_used, idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_in_use_once_and_is_no_more_goes_after_a_while() {
        let kept = Duration::from_secs(10);
        let found = |in_use: &[(&str, bool)]| {
            let image = |(id, in_use): &(&str, bool)| BaseImage { id: ImageId::new(*id), in_use: *in_use };
            in_use.iter().map(image).collect::<Vec<_>>()
        };
        let all = [("node", true), ("go", true), ("foreign", false)];
        let (known, gone) = idle(&LastUsed::new(), found(&all), 1_000, kept);
        assert_eq!(known.keys().collect::<Vec<_>>(), ["go", "node"]);
        assert!(gone.is_empty());

        let all = [("node", false), ("go", true), ("foreign", false)];
        let (known, gone) = idle(&known, found(&all), 10_000, kept);
        assert!(gone.is_empty(), "used lately");
        let (known, gone) = idle(&known, found(&all), 11_001, kept);
        assert_eq!(gone, [ImageId::new("node")]);
        let (known, gone) = idle(&known, found(&all[1..]), 90_000, kept);
        assert!(gone.is_empty() && !known.contains_key("node"), "it is forgotten");
    }
}
