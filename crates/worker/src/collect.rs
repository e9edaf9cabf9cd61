//! Which images are kept: those that containers use, and of each app the newest ones, to return to.
//!
//! Invariant: nothing that runs or could be asked for again loses its image; all other images of apps go.

use crate::host::{Host, LABEL_APP_ID, LABEL_ORIGIN, Origin};
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};
use wisehosting_containers::{Engine, EngineError, ImageId};
use wisehosting_domain::id::AppId;

/// Removes the images of an app that are not kept. Not while a job of the app is at work.
pub(crate) async fn collect<E: Engine>(host: &Host<E>, app: AppId) -> Result<(), EngineError> {
    collect_if(host, |origin| origin.app == app).await
}

/// Removes the images that are not kept of all apps that no deploy is at work for.
pub(crate) async fn collect_idle<E: Engine>(host: &Host<E>) -> Result<(), EngineError> {
    collect_if(host, |origin| !host.is_deploying(origin.app)).await
}

async fn collect_if<E: Engine>(
    host: &Host<E>,
    concerned: impl Fn(&Origin) -> bool + Send,
) -> Result<(), EngineError> {
    let images = host.engine.images(LABEL_ORIGIN).await?.into_iter();
    let images = images.filter_map(|image| Some((Origin::of(&image).filter(&concerned)?, image.id)));
    let images = images.collect();
    // The engine itself keeps the image of one that it does not tell of.
    let containers = host.engine.containers(LABEL_APP_ID).await?.known();
    let used = containers.into_iter().map(|container| container.image).collect();
    let mut collected = Ok(());
    for (origin, image) in superfluous(images, &used, host.settings.images_kept) {
        // It may have become of no concern since.
        if !concerned(&origin) {
            continue;
        }
        match host.engine.remove_image(&image).await {
            Err(error) if error.is_away() => return Err(error),
            // One that is damaged, or held by somebody, keeps no other.
            Err(error) => collected = Err(error),
            Ok(()) => {}
        }
    }
    collected
}

/// The images that nothing uses and that are not among the newest `kept` of their app.
fn superfluous(
    mut images: Vec<(Origin, ImageId)>,
    used: &HashSet<ImageId>,
    kept: usize,
) -> Vec<(Origin, ImageId)> {
    images.sort_by_key(|(origin, _)| Reverse(origin.built_at_ms));
    let mut newer = HashMap::<AppId, usize>::new();
    images.retain(|(origin, id)| {
        let newer = newer.entry(origin.app).or_default();
        *newer += 1;
        *newer > kept && !used.contains(id)
    });
    images
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use wisehosting_containers::StoredImage;
    use wisehosting_domain::id::JobId;

    fn image(app: u128, id: &str, built_at_ms: u64) -> (Origin, ImageId) {
        let origin = Origin { app: AppId(Uuid::from_u128(app)), job: JobId(Uuid::from_u128(9)), built_at_ms };
        (origin, ImageId::new(id))
    }

    #[test]
    fn of_each_app_the_newest_images_and_those_in_use_are_kept() {
        let images = vec![
            image(1, "a1", 1),
            image(1, "a4", 4),
            image(2, "b1", 1),
            image(1, "a2", 2),
            image(1, "a3", 3),
        ];
        let superfluous = |used: &[&str], kept| {
            let used = used.iter().map(|id| ImageId::new(*id)).collect();
            let ids = superfluous(images.clone(), &used, kept);
            ids.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(superfluous(&[], 2), ["a2", "a1"]);
        assert_eq!(superfluous(&["a1"], 2), ["a2"], "it runs");
        assert_eq!(superfluous(&["a4"], 1), ["a3", "a2", "a1"]);
        assert!(superfluous(&[], 4).is_empty());
    }

    #[test]
    fn an_image_tells_where_it_comes_from() {
        let (origin, id) = image(1, "a1", 7);
        let stored = |labels| StoredImage { id: id.clone(), labels };
        assert_eq!(Origin::of(&stored(origin.labels())), Some(origin));
        assert_eq!(Origin::of(&stored([].into())), None);
    }
}
