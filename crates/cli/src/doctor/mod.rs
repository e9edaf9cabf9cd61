//! The command `doctor`: walks the way from the control plane to each machine, or to an app, and names the hop that fails.

mod diagnosis;

use crate::{
    answers::{App, AppStats, EdgeList, Mesh, WorkerList},
    client::{Client, segment},
    error::CliError,
    output::{Output, Style},
};
use diagnosis::{AppFacts, Facts, Finding, diagnose};
use serde_json::json;

pub(crate) async fn doctor(client: &Client, app: Option<&str>, output: Output) -> Result<(), CliError> {
    let mesh: Mesh = client.read(client.get("/v1/mesh").await?)?;
    let WorkerList { workers } = client.read(client.get("/v1/workers").await?)?;
    let EdgeList { edges } = client.read(client.get("/v1/edges").await?)?;
    let app = match app {
        Some(name) => {
            let path = format!("/v1/apps/{}", segment(name));
            let app: App = client.read(client.get(&path).await?)?;
            let AppStats { instances } = client.read(client.get(&format!("{path}/stats")).await?)?;
            Some(AppFacts { app, instances })
        }
        None => None,
    };
    let findings = diagnose(&Facts { mesh, workers, edges, app });
    output.value(&json!({ "findings": findings }));
    for finding in &findings {
        show(finding, output);
    }
    let failed = findings.iter().filter(|finding| !finding.good).count();
    if failed == 0 {
        return Ok(());
    }
    Err(CliError::Failed(format!("{failed} of {} hops fail", findings.len())))
}

fn show(finding: &Finding, output: Output) {
    let (word, style) = if finding.good { ("good", Style::Good) } else { ("bad ", Style::Bad) };
    output.line(&format!("{}  {}: {}", output.styled(style, word), finding.hop, finding.what));
    if let Some(repair) = &finding.repair {
        output.line(&format!("      {repair}"));
    }
}
