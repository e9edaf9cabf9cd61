//! The worker's tests, through what a control plane would see of it.

mod bandwidth;
mod builds;
mod deploy;
mod disk;
mod git;
mod git_host;
mod images;
mod instances;
mod jobs;
mod logs;
mod private_repositories;
mod recovery;
mod slow_disk;
mod space;
mod stats;
mod support;
