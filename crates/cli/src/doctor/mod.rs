//! The command `doctor`: walks the way from here to the control plane, from there to each machine, or to an app, and names the hop that fails.

mod diagnosis;

use crate::{
    answers::{App, AppStats, EdgeList, Mesh, WorkerList},
    client::{Client, segment},
    error::CliError,
    output::{Output, Style},
};
use diagnosis::{AppFacts, Facts, Finding, Silence, diagnose, no_answer};
use serde_json::json;

pub(crate) async fn doctor(client: &Client, app: Option<&str>, output: Output) -> Result<(), CliError> {
    let findings = match ask(client, app).await {
        Ok(facts) => diagnose(&facts),
        Err(error) => vec![no_answer(&silence(&error).ok_or(error)?)],
    };
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

/// All that the control plane knows of it.
async fn ask(client: &Client, app: Option<&str>) -> Result<Facts, CliError> {
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
    Ok(Facts { mesh, workers, edges, app })
}

/// Whether an error is that of a control plane that cannot answer; any other is the user's to know as it is.
fn silence(error: &CliError) -> Option<Silence> {
    let why = error.whole_message();
    Some(match error {
        CliError::Unreachable { source, .. } if source.is_timeout() => Silence::TimedOut(why),
        CliError::Unreachable { .. } => Silence::NoConnection(why),
        CliError::ServerFailed { .. } => Silence::Failing(why),
        _ => return None,
    })
}

fn show(finding: &Finding, output: Output) {
    let (word, style) = if finding.good { ("good", Style::Good) } else { ("bad ", Style::Bad) };
    output.line(&format!("{}  {}: {}", output.styled(style, word), finding.hop, finding.what));
    if let Some(repair) = &finding.repair {
        output.line(&format!("      {repair}"));
    }
}
