//! One run of `wrk`, the load generator.

use std::process::Command;

use anyhow::{Context as _, bail};

/// What to ask for, and how hard.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// The address to ask.
    pub url: &'a str,
    /// The host name to ask for.
    pub host: &'a str,
    /// Connections kept open.
    pub connections: u32,
    /// How long.
    pub seconds: u32,
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// Time that 99 of 100 requests stay below.
    pub p99_ms: f64,
}

/// Runs it to its end.
///
/// # Errors
/// `wrk` is missing, or a request failed.
pub fn run(load: &Load<'_>) -> anyhow::Result<Answer> {
    let output = Command::new("wrk")
        .args(["--threads", "1", "--latency"])
        .args(["--connections", &load.connections.to_string()])
        .args(["--duration", &format!("{}s", load.seconds)])
        .args(["--header", &format!("Host: {}", load.host), load.url])
        .output()
        .context("start wrk: ./dev setup bench installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for trouble in ["Non-2xx", "Socket errors"] {
        if let Some(line) = text.lines().find(|line| line.contains(trouble)) {
            bail!("{}: {}", load.url, line.trim());
        }
    }
    let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let rate = field("Requests/sec:").and_then(|text| text.parse().ok()).context("wrk printed no rate")?;
    let p99_ms = field("99%").and_then(milliseconds).context("wrk printed no latency")?;
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    Ok(Answer { requests: requests.context("wrk printed no count")?, rate, p99_ms })
}

/// Reads `wrk`'s times: 850.00us, 1.20ms, 2.05s.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1_000.0)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn all_units_are_read() {
        assert_eq!(milliseconds("850.00us"), Some(0.85));
        assert_eq!(milliseconds("1.20ms"), Some(1.2));
        assert_eq!(milliseconds("2.00s"), Some(2_000.0));
    }
}
