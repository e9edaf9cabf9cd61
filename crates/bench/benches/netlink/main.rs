//! The kernel asked over netlink beside the program that asks it otherwise, and how exact a bandwidth limit is.
//!
//! Both sides of a ratio do the same to the same namespace, in turns. Netlink's side begins with an open connection, as
//! a daemon has one; the program's side is what a daemon without it would do: start the program and wait for its end.
//!
//! Needs root. `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench netlink -- [rounds]`.

mod operations;
mod rates;

use wisehosting_bench::report::Report;

/// How much faster than running a program we want to be.
const GOAL: f64 = 50.0;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(100);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report =
        Report::new(&format!("netlink: a program's time / ours, median of {rounds} rounds in turns"));
    for operation in runtime.block_on(operations::measure(rounds))? {
        let ratio = operation.program.median_ratio(&operation.ours);
        let (ours, program) = (operation.ours.median() * 1e6, operation.program.median() * 1e6);
        let figure = format!("{ratio:.0} ({ours:.0} µs, {program:.0} µs)");
        report.goal(operation.name, figure, &format!(">= {GOAL}"), ratio >= GOAL);
    }
    print!("{report}");

    let mut report = Report::new("shaping: payload of one TCP connection / the limit that was asked for");
    for rate in runtime.block_on(rates::measure())? {
        let [out, into] = [rate.from_container, rate.to_container].map(|seen| seen / rate.asked);
        let exact = [out, into].iter().all(|part| (0.9..=1.1).contains(part));
        let name = format!("{} Mbit/s, from and to the container", rate.asked / 1e6);
        report.goal(name, format!("{out:.3}, {into:.3}"), "0.9 to 1.1", exact);
    }
    print!("{report}");
    Ok(())
}
