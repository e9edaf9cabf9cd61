//! The worker's tests, through what a control plane would see of it.

mod deploy;
mod git;
mod instances;
mod jobs;
mod support;
