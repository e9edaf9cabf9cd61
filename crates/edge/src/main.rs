//! The program `wisehosting-edge`.

use std::process::ExitCode;
use wisehosting_node::{
    channel::Role,
    program::{self, Program},
};

fn main() -> ExitCode {
    let program = Program {
        name: "wisehosting-edge",
        about: "The WiseHosting edge: the public door for app traffic",
        version: env!("CARGO_PKG_VERSION"),
        role: Role::Edge,
    };
    program::main(program, wisehosting_edge::run)
}
