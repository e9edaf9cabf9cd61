//! A stop job: ask the program to end, then remove what there is of the instance. A delete job: remove what there is of
//! a whole app.
//!
//! Invariant: afterwards it is gone; what was gone before is no error.

use crate::host::{Host, LABEL_APP_ID, LABEL_ORIGIN, Origin};
use std::time::Duration;
use wisehosting_containers::{Engine, EngineError};
use wisehosting_domain::id::{AppId, InstanceId};
use wisehosting_protocol::payload::Stop;

pub(crate) async fn stop<E: Engine>(
    host: &Host<E>,
    instance: InstanceId,
    stop: Stop,
) -> Result<(), EngineError> {
    for container in host.containers_of(instance).await?.known() {
        match host.engine.stop(&container.id, Duration::from_millis(stop.grace_ms)).await {
            Ok(()) | Err(EngineError::NoSuchContainer(_)) => {}
            Err(error) => return Err(error),
        }
    }
    host.remove_instance(instance).await
}

/// Removes containers, with their logs, and images. The app's instances were stopped before.
pub(crate) async fn delete<E: Engine>(host: &Host<E>, app: AppId) -> Result<(), EngineError> {
    let id = app.to_string();
    let containers = host.engine.containers(LABEL_APP_ID).await?;
    host.remove_all(containers.only(|container| container.labels.get(LABEL_APP_ID) == Some(&id))).await?;
    for image in host.engine.images(LABEL_ORIGIN).await? {
        if Origin::of(&image).is_some_and(|origin| origin.app == app) {
            host.engine.remove_image(&image.id).await?;
        }
    }
    Ok(())
}
