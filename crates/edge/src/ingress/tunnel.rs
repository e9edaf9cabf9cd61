//! An upgraded connection (WebSocket and others): bytes both ways until one side ends.

use super::{connection::InFlight, thread::Lease};
use crate::upstream::Connection;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

/// Carries the bytes. The table that the request began on is in use until the end.
pub(super) async fn carry(visitor: OnUpgrade, instance: Connection, lease: Lease, in_flight: InFlight) {
    let result = async {
        let mut visitor = TokioIo::new(visitor.await.map_err(io::Error::other)?);
        let (received, mut instance) = instance.into_parts();
        visitor.write_all(&received).await?;
        copy_bidirectional(&mut visitor, &mut instance).await
    };
    match result.await {
        Ok((to_instance, to_visitor)) => {
            tracing::debug!(
                bytes.to_instance = to_instance,
                bytes.to_visitor = to_visitor,
                "upgraded connection ended"
            );
        }
        Err(error) => tracing::debug!(%error, "upgraded connection broke"),
    }
    drop((lease, in_flight));
}
