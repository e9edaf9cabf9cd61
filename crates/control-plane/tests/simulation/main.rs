//! The platform under faults, simulated: real scheduler, rollout, hub, store and agents, and the real sessions of the channel
//! between them, against a real Postgres, with clocks, networks, engines and repositories that are simulated.
//!
//! Thousands of runs differ by their number alone. In each, apps are deployed, repeated, stopped, cancelled and deleted
//! while control plane, agents, engines and database are killed in the middle of what they do, connections are cut, late
//! and repeated, clocks are set, programs crash and workers are emptied. What must hold is checked all the while; then the faults stop, and
//! everything must come to rest. A failure prints its number and how to run it again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent_ends;
mod clocks;
mod control_plane;
mod database;
mod edge;
mod engine;
mod faults;
mod history;
mod hub_ends;
mod network;
mod outside;
mod program;
mod random;
mod rest;
mod statements;
mod user;
mod words;
mod worker;
mod world;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use world::{Site, World};

const RUNS: u64 = 100;
/// How many runs.
const RUNS_VARIABLE: &str = "SIMULATION_RUNS";
/// One run alone, with all that happens in it.
const RUN_VARIABLE: &str = "SIMULATION_RUN";

/// A number from the environment.
fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a run is a number"))
}

/// What happened in a run, and what did not hold in it.
fn run(number: u64, site: &mut Site, show: bool) -> (Vec<String>, Result<(), String>) {
    statements::begin();
    let mut world = World::new(number, site, show);
    let held = world.run();
    (world.history.trace, held)
}

fn explain(number: u64, trace: &[String], broken: &str) -> String {
    let telling: Vec<&str> =
        trace.iter().map(String::as_str).filter(|line| !line.contains("heartbeat")).collect();
    let shown = telling[telling.len().saturating_sub(40)..].join("\n");
    format!(
        "run {number}: {broken}\n{shown}\nall of it: {RUN_VARIABLE}={number} cargo xtask postgres -- cargo test \
         -p wisehosting-control-plane --test simulation -- --nocapture jobs_end"
    )
}

#[test]
fn jobs_end_once_and_all_comes_to_rest_whatever_happens() {
    let one = asked(RUN_VARIABLE);
    statements::watch(one.is_some());
    let numbers = one.map_or(0..asked(RUNS_VARIABLE).unwrap_or(RUNS), |number| number..number + 1);
    let threads =
        thread::available_parallelism().map_or(1, usize::from).min(if one.is_some() { 1 } else { 8 });
    let (next, failed) = (AtomicU64::new(numbers.start), AtomicBool::new(false));
    let began = Instant::now();
    let problems: Vec<String> = thread::scope(|scope| {
        let work = |thread: usize| {
            let (next, failed, end) = (&next, &failed, numbers.end);
            scope.spawn(move || {
                let mut site = Site::new(&format!("simulation_{}_{thread}", std::process::id()));
                let mut problem = None;
                while problem.is_none() && !failed.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        break;
                    }
                    let (trace, held) = run(number, &mut site, one.is_some());
                    problem = held.err().map(|broken| explain(number, &trace, &broken));
                }
                failed.fetch_or(problem.is_some(), Ordering::Relaxed);
                site.remove();
                problem
            })
        };
        let threads: Vec<_> = (0..threads).map(work).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{} runs in {:?}", numbers.end - numbers.start, began.elapsed());
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

#[test]
fn a_run_repeats_exactly() {
    statements::watch(false);
    let mut site = Site::new(&format!("simulation_{}_twice", std::process::id()));
    for number in 0..10 {
        let (first, _) = run(number, &mut site, false);
        let (second, _) = run(number, &mut site, false);
        assert!(first.len() > 50, "something happens");
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        let differs = differs.map(|at| (&first[at], &second[at]));
        assert_eq!(differs, None, "run {number}");
        assert_eq!(first.len(), second.len(), "run {number}");
    }
    site.remove();
}
