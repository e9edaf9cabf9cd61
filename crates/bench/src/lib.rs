//! What the benchmarks share: samples, the table that they print, and programs that end with the benchmark.
//!
//! The machine is shared, so a figure counts only beside another of the same run: what can be compared is measured in
//! turns, round by round, and reported as a ratio. Nothing here asserts a time.

pub mod agent;
pub mod platform;
pub mod process;
pub mod report;
pub mod rivals;
pub mod sample;
pub mod transfer;
pub mod worker;
pub mod wrk;
