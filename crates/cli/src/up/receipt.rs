//! What `up --once` did, how long each part took, and that nothing is left.

use std::time::Duration;

use serde_json::json;
use wisehosting_lab::state::Cleaned;

use super::request::Visit;
use crate::{
    answers::Deployment,
    output::{Output, Style},
};

/// What happened until the lab was taken down.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// From the start until worker and proxy were connected.
    pub(crate) ready: Duration,
    /// From the start until the app was live.
    pub(crate) deployed: Duration,
    /// The app's deployment.
    pub(crate) deployment: Deployment,
    /// Requests through the proxy.
    pub(crate) requests: Vec<Visit>,
    /// What carried the mesh.
    pub(crate) mesh: &'static str,
}

impl Receipt {
    pub(crate) fn print(&self, output: Output, stopped: Duration, total: Duration, cleaned: Cleaned) {
        let steps: Vec<(String, u64)> = self
            .deployment
            .steps
            .iter()
            .filter_map(|step| Some((step.state.clone(), step.duration_ms?)))
            .collect();
        output.value(&json!({
            "event": "receipt",
            "ready_ms": self.ready.as_millis(),
            "deployed_ms": self.deployed.as_millis(),
            "steps_ms": steps.iter().map(|(state, ms)| (state.clone(), json!(ms))).collect::<serde_json::Map<_, _>>(),
            "requests": self.requests,
            "mesh": self.mesh,
            "stopped_ms": stopped.as_millis(),
            "total_ms": total.as_millis(),
            "cleaned": cleaned,
        }));
        output.line("");
        output.line(&output.styled(Style::Bold, "  Receipt"));
        row(output, "three hosts, joined and connected", self.ready);
        row(output, "the app, from the repository to its address", self.deployed - self.ready);
        for (state, ms) in steps {
            output.line(&format!("      {state:<40}{ms:>8} ms"));
        }
        for visit in &self.requests {
            row(
                output,
                &format!("{} answered {}", visit.url, visit.status),
                Duration::from_millis(visit.took_ms),
            );
        }
        row(output, "everything taken down", stopped);
        row(output, "all of it", total);
        output.line(&format!("    mesh: WireGuard, {}", self.mesh));
        output.line("    nothing is left");
    }
}

fn row(output: Output, what: &str, took: Duration) {
    output.line(&format!("    {what:<48}{:>6.2} s", took.as_secs_f64()));
}
