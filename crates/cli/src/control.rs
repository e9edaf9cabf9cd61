//! The commands that change what an app does: restart, stop, start, cancel, delete.

use serde_json::{Value, json};

use crate::{
    answers::{Deployment, DeploymentList},
    arguments::Begin,
    client::{Client, segment},
    deploy::follow,
    error::CliError,
    output::Output,
};

pub(crate) async fn restart(client: &Client, options: &Begin, output: Output) -> Result<(), CliError> {
    let queued = post(client, &options.app, "restart").await?;
    follow(client, queued, options.no_follow, output).await
}

pub(crate) async fn start(client: &Client, options: &Begin, output: Output) -> Result<(), CliError> {
    let queued = post(client, &options.app, "start").await?;
    follow(client, queued, options.no_follow, output).await
}

pub(crate) async fn stop(client: &Client, app: &str, output: Output) -> Result<(), CliError> {
    output.value(&post(client, app, "stop").await?);
    output.line(&format!("{app} is stopped; to serve it again: wisehosting start {app}"));
    Ok(())
}

pub(crate) async fn delete(client: &Client, app: &str, output: Output) -> Result<(), CliError> {
    client.delete(&format!("/v1/apps/{}", segment(app))).await?;
    output.value(&json!({ "deleted": app }));
    output.line(&format!("{app} is deleted"));
    Ok(())
}

/// Cancels the newest deployment of an app.
pub(crate) async fn cancel(client: &Client, app: &str, output: Output) -> Result<(), CliError> {
    let answer = client.get(&format!("/v1/apps/{}/deployments?limit=1", segment(app))).await?;
    let list: DeploymentList = client.read(answer)?;
    let Some(newest) = list.deployments.first() else {
        return Err(CliError::Failed(format!("{app} was never deployed")));
    };
    cancel_deployment(client, &newest.id, output).await
}

/// Cancels one deployment.
pub(crate) async fn cancel_deployment(client: &Client, id: &str, output: Output) -> Result<(), CliError> {
    let answer = client.post(&format!("/v1/deployments/{}/cancel", segment(id)), &json!({})).await?;
    output.value(&answer);
    let deployment: Deployment = client.read(answer)?;
    output.line(&format!("{} #{} is cancelled, or will be", deployment.app, deployment.number));
    Ok(())
}

async fn post(client: &Client, app: &str, what: &str) -> Result<Value, CliError> {
    client.post(&format!("/v1/apps/{}/{what}", segment(app)), &json!({})).await
}
