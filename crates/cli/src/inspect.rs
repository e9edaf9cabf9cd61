//! The commands that look: apps, deployments, workers.

use crate::{
    answers::{App, AppList, Deployment, DeploymentList, EdgeList, WorkerList},
    arguments::{Apps, Deployments},
    client::{Client, segment},
    control::cancel_deployment,
    error::CliError,
    output::{Output, Style},
    sizes::{count, in_bits_per_s, in_cores, in_mebibytes},
};

pub(crate) async fn apps(client: &Client, command: Option<Apps>, output: Output) -> Result<(), CliError> {
    match command.unwrap_or(Apps::List) {
        Apps::List => {
            let answer = client.get("/v1/apps").await?;
            output.value(&answer);
            let AppList { apps } = client.read(answer)?;
            if apps.is_empty() {
                output.line("no apps yet; to make one: wisehosting deploy <repository> --name <name>");
                return Ok(());
            }
            let rows: Vec<Vec<String>> =
                apps.iter().map(|app| vec![app.name.clone(), app.state.clone(), app.url.clone()]).collect();
            output.table(&["APP", "STATE", "ADDRESS"], &rows);
        }
        Apps::Show { name } => {
            let answer = client.get(&format!("/v1/apps/{}", segment(&name))).await?;
            output.value(&answer);
            show_app(&client.read(answer)?, output);
        }
    }
    Ok(())
}

fn show_app(app: &App, output: Output) {
    let limits = &app.settings.limits;
    let deployment = |deployment: Option<&Deployment>| deployment.map_or("none".to_owned(), summary);
    let login = app.settings.login.as_ref().map_or("none".to_owned(), |login| {
        format!("{}, set at {}", login.username, login.set_at.split('.').next().unwrap_or_default())
    });
    let rows = [
        ("state", app.state.clone()),
        ("addresses", app.urls.join("  ")),
        ("repository", app.settings.repository.clone()),
        ("branch", app.settings.branch.clone().unwrap_or_else(|| "the repository's default".to_owned())),
        ("login", login),
        (
            "limits",
            format!(
                "{}, {} cores, {} processes, {}, {}",
                in_mebibytes(limits.memory_bytes),
                f64::from(limits.cpu_millis) / 1000.0,
                limits.pids,
                limits.bandwidth_bits_per_s.map_or("any traffic".to_owned(), in_bits_per_s),
                limits
                    .disk_bytes
                    .map_or("any disk".to_owned(), |bytes| format!("{} of disk", in_mebibytes(bytes)))
            ),
        ),
        ("live", deployment(app.live.as_ref())),
        ("newest", deployment(app.latest.as_ref())),
    ];
    output.line(&output.styled(Style::Bold, &app.name));
    for (name, value) in rows {
        output.line(&format!("  {name:<12}{value}"));
    }
    if let Some(violation) = &app.violation {
        let kind = violation.kind.replace('_', " ");
        let at = violation.observed_at.split('.').next().unwrap_or_default();
        output.line(&format!("  {:<12}{}", "down", output.styled(Style::Bad, &format!("{kind} at {at}"))));
        output.line(&format!("  {:<12}{}", "", violation.message));
    }
}

fn summary(deployment: &Deployment) -> String {
    let commit =
        deployment.commit.as_deref().map_or(String::new(), |commit| format!(" at {}", short(commit)));
    let reason = deployment.message.as_deref().map_or(String::new(), |message| format!(": {message}"));
    format!("#{} {}{commit}{reason}", deployment.number, deployment.state)
}

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

pub(crate) async fn deployments(
    client: &Client,
    options: &Deployments,
    output: Output,
) -> Result<(), CliError> {
    if let Some(id) = &options.cancel {
        return cancel_deployment(client, id, output).await;
    }
    let answer = match &options.app {
        Some(app) => client.get(&format!("/v1/apps/{}/deployments", segment(app))).await?,
        None => client.get("/v1/deployments").await?,
    };
    output.value(&answer);
    let DeploymentList { deployments } = client.read(answer)?;
    let rows: Vec<Vec<String>> = deployments
        .into_iter()
        .map(|deployment| {
            vec![
                deployment.app,
                format!("#{}", deployment.number),
                deployment.state,
                deployment.commit.as_deref().map(short).unwrap_or_default().to_owned(),
                deployment.created_at.split('.').next().unwrap_or_default().to_owned(),
                deployment.id,
                deployment.message.unwrap_or_default(),
            ]
        })
        .collect();
    output.table(&["APP", "", "STATE", "COMMIT", "ASKED FOR", "ID", ""], &rows);
    Ok(())
}

pub(crate) async fn workers(client: &Client, output: Output) -> Result<(), CliError> {
    let (mut workers, edges) = (client.get("/v1/workers").await?, client.get("/v1/edges").await?);
    let list: WorkerList = client.read(workers.clone())?;
    let proxies: EdgeList = client.read(edges.clone())?;
    workers["edges"] = edges["edges"].clone();
    output.value(&workers);
    let mut rows: Vec<Vec<String>> = list
        .workers
        .into_iter()
        .map(|worker| {
            let memory = format!(
                "{} of {}",
                in_mebibytes(worker.memory_bytes_used),
                in_mebibytes(worker.memory_bytes)
            );
            let cpus = format!(
                "{} of {} cores",
                f64::from(worker.cpu_millis_used) / 1000.0,
                f64::from(worker.cpu_millis) / 1000.0
            );
            let load = format!("{}, {memory}, {cpus}", count(worker.instances, "instance"));
            let draining = if worker.draining { ", draining" } else { "" };
            let state = worker.state + draining;
            let used = worker.usage.map_or(String::new(), |usage| {
                format!(
                    "{}, {}, disk {} of {}{}",
                    in_cores(usage.cpu_millis),
                    in_mebibytes(usage.memory_bytes),
                    in_mebibytes(usage.disk_bytes_used),
                    in_mebibytes(usage.disk_bytes),
                    if usage.disk_limits_held { ", which holds limits" } else { "" }
                )
            });
            vec![worker.name, "worker".to_owned(), state, worker.address, load, used]
        })
        .collect();
    rows.extend(proxies.edges.into_iter().map(|edge| {
        let serves = format!("serves route table {}", edge.acked_generation);
        let state = edge.state().to_owned();
        vec![edge.name, "proxy".to_owned(), state, edge.address, serves, String::new()]
    }));
    output.table(&["HOST", "ROLE", "STATE", "ADDRESS", "PROMISED", "IN USE"], &rows);
    Ok(())
}
