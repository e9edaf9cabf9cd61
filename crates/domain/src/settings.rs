//! An app's settings: what a deployment copies when it is asked for, and keeps unchanged.

use crate::{limits::Limits, preset::Preset, secret::Sealed, source::Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that a worker needs to bring an app into service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What to build.
    pub source: Source,
    /// How to build it; if none, by its Dockerfile, or, without one, as what it looks like.
    pub preset: Option<Preset>,
    /// What an instance may use.
    pub limits: Limits,
    /// Where the container listens, unless its image exposes exactly one port.
    pub port: u16,
    /// Path of the health probe.
    pub health_path: String,
    /// How long the container may take to become healthy, in milliseconds.
    pub health_timeout_ms: u64,
    /// Whether the container may write to `/tmp` only, which is kept in its memory; if none, where its preset needs no more.
    pub read_only: Option<bool>,
    /// Environment of the container; each value is sealed for its app and its name.
    pub environment: BTreeMap<String, Sealed>,
}
