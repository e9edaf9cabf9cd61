//! The narrow seam to Podman's API socket.
//!
//! [`Engine`] is all that the platform asks of a container engine: plain data in, plain data out. [`Podman`] is the
//! real one, `fake::FakeEngine` the one for tests that need no machine; one contract suite holds both to the same
//! promises. Invariant: no type of the client library leaves this crate.

pub mod engine;
#[cfg(feature = "testing")]
pub mod fake;
pub mod log;
pub mod podman;
pub mod service;
#[cfg(feature = "testing")]
pub mod testing;

pub use engine::{
    BaseImage, Build, BuildBounds, BuildError, Container, ContainerId, ContainerList, ContainerSpec,
    ContainerState, Engine, EngineError, Image, ImageId, Network, Storage, StoredImage,
};
pub use log::{LogBatch, LogLine, LogPosition, LogStream};
pub use podman::{Cgroups, ContainerUsage, HelperGroup, Podman};
