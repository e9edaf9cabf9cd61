//! Routes that the gateway's API is asked for: what is refused, and their files.
//!
//! Invariant: one change happens after the other, and none is left half done by who asked for it going away.

use super::{
    HttpRoute,
    directory::{Directory, Found, PUSHED},
};
use crate::forwards::{Bounds, TargetRefusal};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};
use wisehosting_domain::{
    name::{Hostname, Word},
    traefik::{Front, rule},
};

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The name is that of a file which is no route's.
    #[error("a file of this name is there that is no route's")]
    Foreign,
    /// The host name leads elsewhere.
    #[error("{hostname} is routed already, by {by}")]
    HostnameTaken {
        /// The host name.
        hostname: Hostname,
        /// The other route, or the control plane.
        by: String,
    },
    /// It leads where none may.
    #[error(transparent)]
    Target(#[from] TargetRefusal),
    /// There is no such route.
    #[error("there is no such route")]
    Missing,
    /// The disk.
    #[error("cannot change the files of routes")]
    File(#[from] io::Error),
}

/// Keeps the routes. Clones are the same keeper.
#[derive(Clone, Debug)]
pub struct HttpRoutes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Mutex<Directory>,
    bounds: Bounds,
    front: Front,
}

impl HttpRoutes {
    /// Those in this directory; a route that names no entrypoint or resolver gets those of `front`.
    #[must_use]
    pub fn new(directory: Directory, bounds: Bounds, front: Front) -> Self {
        Self(Arc::new(Inner { directory: Mutex::new(directory), bounds, front }))
    }

    /// Takes those that lead where none may any more, since the configuration changed, out of Traefik's sight, with an error
    /// in the log.
    ///
    /// # Errors
    /// `File`.
    pub async fn set_refused_aside(&self) -> Result<(), RouteError> {
        let bounds = self.0.bounds.clone();
        self.with_directory(move |directory| {
            for route in directory.routes()? {
                let Err(refusal) = bounds.check_target(*route.target_url.address.ip()) else { continue };
                let aside = directory.set_aside(route.route_id.as_str())?;
                tracing::error!(
                    route.id = %route.route_id,
                    host.name = %route.hostname,
                    reason = %refusal,
                    file = %aside.display(),
                    "a route is not allowed any more and is served no longer: it is kept in this file"
                );
            }
            Ok(())
        })
        .await
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// `File`.
    pub async fn list(&self) -> Result<Vec<HttpRoute>, RouteError> {
        self.with_directory(|directory| Ok(directory.routes()?)).await
    }

    /// Adds a route, or puts it in the place of the one of its name. Gives it as it is now, and says whether there was
    /// none.
    ///
    /// # Errors
    /// It is refused, or cannot be written; then all is as it was.
    pub async fn put(&self, mut route: HttpRoute) -> Result<(HttpRoute, bool), RouteError> {
        self.0.bounds.check_target(*route.target_url.address.ip())?;
        route.entrypoint = route.entrypoint.or_else(|| self.0.front.entrypoint.clone());
        route.certresolver = route.certresolver.or_else(|| self.0.front.certresolver.clone());
        self.with_directory(move |directory| {
            let new = match directory.find(route.route_id.as_str())? {
                Found::Foreign => return Err(RouteError::Foreign),
                _ if route.route_id.as_str() == PUSHED => return Err(RouteError::Foreign),
                found => found == Found::Nothing,
            };
            check_hostname(directory, &route)?;
            directory.put(&route)?;
            tracing::info!(
                route.id = %route.route_id,
                host.name = %route.hostname,
                target = %route.target_url,
                "a host name is routed"
            );
            Ok((route, new))
        })
        .await
    }

    /// Removes a route.
    ///
    /// # Errors
    /// `Missing`, or it cannot be removed.
    pub async fn remove(&self, route_id: Word) -> Result<(), RouteError> {
        self.with_directory(move |directory| {
            if !matches!(directory.find(route_id.as_str())?, Found::Route(_)) {
                return Err(RouteError::Missing);
            }
            directory.remove(route_id.as_str())?;
            tracing::info!(route.id = %route_id, "a host name is routed no longer");
            Ok(())
        })
        .await
    }

    async fn with_directory<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, RouteError> + Send + 'static,
    ) -> Result<T, RouteError> {
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&inner.directory.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(io::Error::other)?
    }
}

/// Two routers of one host name would leave it to Traefik where it leads.
fn check_hostname(directory: &Directory, route: &HttpRoute) -> Result<(), RouteError> {
    let taken =
        |by: &str| Err(RouteError::HostnameTaken { hostname: route.hostname.clone(), by: by.to_owned() });
    let same = |other: &HttpRoute| other.hostname == route.hostname && other.route_id != route.route_id;
    if let Some(other) = directory.routes()?.into_iter().find(same) {
        return taken(other.route_id.as_str());
    }
    if directory.pushed()?.contains(&rule(&route.hostname)) { taken("the control plane") } else { Ok(()) }
}
