//! A stop job: ask the program to end, then remove what there is of the instance.
//!
//! Invariant: afterwards the instance is gone; one that was gone before is no error.

use crate::host::Host;
use std::time::Duration;
use wisehosting_containers::{Engine, EngineError};
use wisehosting_domain::id::InstanceId;
use wisehosting_protocol::payload::Stop;

pub(crate) async fn stop<E: Engine>(
    host: &Host<E>,
    instance: InstanceId,
    stop: Stop,
) -> Result<(), EngineError> {
    for container in host.containers_of(instance).await? {
        match host.engine.stop(&container.id, Duration::from_millis(stop.grace_ms)).await {
            Ok(()) | Err(EngineError::NoSuchContainer(_)) => {}
            Err(error) => return Err(error),
        }
    }
    host.remove_instance(instance).await
}
