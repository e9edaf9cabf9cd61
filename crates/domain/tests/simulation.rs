//! Rollouts under faults, simulated: the real plan, against a store, edges and workers that are models in memory, with a
//! clock of their own.
//!
//! Thousands of runs differ by their seed alone. In each, an app is deployed again and again while edges come, go, answer
//! late or cannot reach an instance, workers fail or are lost, and the control plane is killed. What must hold is checked
//! after every event; then the faults stop, and everything must come to rest. A failure prints its seed and how to run it
//! again.

mod simulated;

use simulated::World;

const RUNS: u64 = 5_000;
/// One run, with all that happens in it.
const SEED: &str = "SIMULATION_SEED";

#[test]
fn rollouts_come_to_rest_whatever_happens() {
    let asked = std::env::var(SEED).ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seeds = asked.map_or(0..RUNS, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let mut world = World::new(seed);
        if let Err(broken) = world.run() {
            let events = world.events();
            let shown = if asked.is_some() { events } else { &events[events.len().saturating_sub(30)..] };
            panic!(
                "seed {seed}: {broken}\n{}\nall of it: {SEED}={seed} cargo test -p wisehosting-domain --test simulation",
                shown.join("\n")
            );
        }
    }
}
