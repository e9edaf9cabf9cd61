//! The worker's tests, through what a control plane would see of it.

mod bandwidth;
mod deploy;
mod git;
mod instances;
mod jobs;
mod support;
