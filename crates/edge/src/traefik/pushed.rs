//! The routes of the control plane, as a file for Traefik.

use super::directory::{Directory, PUSHED};
use crate::table::ServingTable;
use std::{io, sync::Arc, time::Duration};
use wisehosting_domain::traefik::{Front, render};

/// How long requests may go on by a table that was replaced: nobody is told when the last of them ends.
const LAST_REQUESTS: Duration = Duration::from_secs(30);

/// Writes what is pushed.
#[derive(Debug)]
pub struct Pushed {
    directory: Directory,
    front: Front,
}

impl Pushed {
    /// Into this directory, with this front in every route.
    #[must_use]
    pub fn new(directory: Directory, front: Front) -> Self {
        Self { directory, front }
    }

    /// Puts a table in the place of the one before. Traefik takes it when it sees the file, some milliseconds later.
    ///
    /// # Errors
    /// It cannot be written; the one before is still there.
    pub async fn install(&self, table: &ServingTable) -> io::Result<()> {
        let (directory, document) = (self.directory.clone(), render(table.table(), &self.front));
        let written = tokio::task::spawn_blocking(move || {
            if document.is_empty() { directory.remove(PUSHED) } else { directory.put_pushed(&document) }
        });
        written.await.map_err(io::Error::other)?
    }

    /// Lets the requests of a table that was replaced end.
    pub fn retire(&self, table: Arc<ServingTable>) {
        tokio::spawn(async move {
            tokio::time::sleep(LAST_REQUESTS).await;
            drop(table);
        });
    }
}
