//! What serves visitors: the built-in ingress, or a Traefik beside this program.

use crate::{
    ingress::{Ingress, Pulse},
    table::ServingTable,
    traefik::pushed::Pushed,
};
use std::{io, sync::Arc, time::Duration};

/// The one or the other.
#[derive(Debug)]
pub enum Door {
    /// This program.
    BuiltIn(Ingress),
    /// Traefik, by files.
    Traefik(Pushed),
}

impl From<Ingress> for Door {
    fn from(ingress: Ingress) -> Self {
        Self::BuiltIn(ingress)
    }
}

impl Door {
    /// Puts a table in force.
    ///
    /// # Errors
    /// Traefik's file cannot be written; the table before is still in force.
    pub async fn install(&self, table: &Arc<ServingTable>) -> io::Result<()> {
        match self {
            Self::BuiltIn(ingress) => {
                ingress.install(table).await;
                Ok(())
            }
            Self::Traefik(pushed) => pushed.install(table).await,
        }
    }

    /// Takes a table that another one has replaced.
    pub fn retire(&self, table: Arc<ServingTable>) {
        match self {
            // The requests that hold it say when they are done.
            Self::BuiltIn(_) => drop(table),
            Self::Traefik(pushed) => pushed.retire(table),
        }
    }

    /// Tells whether what this program serves visitors with lives.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        match self {
            Self::BuiltIn(ingress) => ingress.pulse(),
            Self::Traefik(_) => Pulse::default(),
        }
    }

    /// Takes no more connections, and waits up to `grace` for the requests under way. Traefik goes on.
    pub async fn shutdown(self, grace: Duration) {
        match self {
            Self::BuiltIn(ingress) => ingress.shutdown(grace).await,
            Self::Traefik(_) => {}
        }
    }
}
