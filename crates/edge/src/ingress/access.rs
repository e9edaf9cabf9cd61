//! The access log: one event for each request, when its response's last byte is out or its visitor has left.
//!
//! It costs next to nothing unless the log's filter asks for it with `access=debug`. A query is never logged: it may
//! hold a secret.

use super::{connection::Visitor, host::requested_host};
use http::{Method, StatusCode, request::Parts};
use std::rc::Rc;
use tokio::time::Instant;
use tracing::Level;
use wisehosting_domain::id::InstanceId;

const TARGET: &str = "access";

/// A request that is being answered. It is logged when it is dropped.
pub(super) struct Entry {
    began: Instant,
    visitor: Rc<Visitor>,
    method: Method,
    host: Option<String>,
    path: String,
    status: StatusCode,
    instance: Option<InstanceId>,
    /// Of the response's body, as far as it was sent.
    bytes: u64,
}

impl Entry {
    /// None if nobody wants to know.
    pub(super) fn new(
        began: Instant,
        visitor: &Rc<Visitor>,
        request: &Parts,
        status: StatusCode,
        instance: Option<InstanceId>,
    ) -> Option<Box<Self>> {
        tracing::enabled!(target: TARGET, Level::DEBUG).then(|| {
            Box::new(Self {
                began,
                visitor: visitor.clone(),
                method: request.method.clone(),
                host: requested_host(request).map(|host| host.name.into_owned()),
                path: request.uri.path().to_owned(),
                status,
                instance,
                bytes: 0,
            })
        })
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        tracing::debug!(
            target: TARGET,
            visitor = self.visitor.address.to_str().map(display).ok(),
            scheme = self.visitor.scheme,
            method = %self.method,
            host.name = self.host,
            path = self.path,
            status = self.status.as_u16(),
            instance.id = self.instance.map(display),
            bytes = self.bytes,
            duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }
}
