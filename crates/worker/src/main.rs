//! The program `wisehosting-worker`.

use std::process::ExitCode;
use wisehosting_node::{
    channel::Role,
    program::{self, Program},
};
use wisehosting_worker::config::Config;

fn main() -> ExitCode {
    let program = Program {
        name: "wisehosting-worker",
        about: "Takes jobs from the control plane, builds and runs apps in Podman, and reports",
        version: env!("CARGO_PKG_VERSION"),
        role: Role::Worker,
    };
    program::main(program, |config: Config, _| wisehosting_worker::run(&config))
}
