//! Limits what an instance sends and receives.
//!
//! The limit stands on the container's label, so that a container which was started again, or whose worker was, is given
//! the same one. Invariant: it is looked at whenever the container is, and set where it is not as it should be.

use crate::host::LABEL_BANDWIDTH;
use wisehosting_containers::Container;
use wisehosting_network::{Netlink, NetworkError, NetworkNamespace, TokenBucket, shape};

/// Sets the limit of a container that runs. Nothing happens to one without.
pub(crate) async fn limit(container: &Container) -> Result<(), NetworkError> {
    let bits_per_s = container.labels.get(LABEL_BANDWIDTH).and_then(|text| text.parse().ok());
    let (Some(bits_per_s), Some(path)) = (bits_per_s, &container.network_namespace) else { return Ok(()) };
    let namespace = NetworkNamespace::at_path(path)?;
    let changes = shape(&namespace, &Netlink::here()?, Some(TokenBucket::for_rate(bits_per_s))).await?;
    if !changes.is_empty() {
        tracing::info!(container.id = %container.id, bits_per_s, "limited the traffic of an instance");
    }
    Ok(())
}
