//! `wisehosting logs`: what apps write, or the log of a build.
//!
//! Who follows an app gets each line once, also if the control plane is away for a while.

use std::time::Duration;

use serde_json::Value;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use wisehosting_node::clock::{Clock as _, SystemClock};

use crate::{
    answers::{DeploymentList, Log},
    arguments::Logs,
    client::{Client, segment},
    error::CliError,
    output::{Output, Style},
    sizes::Moment,
};

/// Lines of a build that are shown if it is not said how many.
const TAIL: usize = 100;
/// Before a control plane that went away is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn logs(client: &Client, options: &Logs, output: Output) -> Result<(), CliError> {
    if options.build {
        return build_log(client, options, output).await;
    }
    let path = path(options);
    if !options.follow {
        let answer = client.get(&path).await?;
        output.value(&answer);
        show_lines(&client.read(answer)?, options.apps.len() > 1, output);
        return Ok(());
    }
    let (path, mut last) = (format!("{path}&follow=true"), None);
    let mut events = client.events(&path, None).await?;
    loop {
        while let Some(event) = events.next().await {
            show_event(client, &event.data, options.apps.len() > 1, output)?;
            last = event.id.or(last);
        }
        events = loop {
            tokio::time::sleep(RETRY_PAUSE).await;
            match client.events(&path, last.as_deref()).await {
                Ok(events) => break events,
                Err(CliError::Unreachable { .. } | CliError::ServerFailed { .. }) => {}
                Err(error) => return Err(error),
            }
        };
    }
}

fn path(options: &Logs) -> String {
    let names: Vec<String> = options.apps.iter().map(|app| segment(app)).collect();
    let mut path = match names.as_slice() {
        [app] => format!("/v1/apps/{app}/logs?"),
        several => format!("/v1/logs?apps={}", several.join(",")),
    };
    if let Some(tail) = options.tail {
        path += &format!("&tail={tail}");
    }
    let since = options.since.as_ref().map(|since| match since {
        Moment::Ago(seconds) => SystemClock.now() - time::Duration::seconds(*seconds),
        Moment::At(at) => *at,
    });
    if let Some(since) = since.and_then(in_utc) {
        path += &format!("&since={since}");
    }
    path
}

fn in_utc(at: OffsetDateTime) -> Option<String> {
    at.to_offset(UtcOffset::UTC).format(&Rfc3339).ok()
}

/// The build log of the newest deployment.
async fn build_log(client: &Client, options: &Logs, output: Output) -> Result<(), CliError> {
    let [app] = options.apps.as_slice() else {
        return Err(CliError::Usage("--build shows the log of one app: name one only".to_owned()));
    };
    let answer = client.get(&format!("/v1/apps/{}/deployments?limit=1", segment(app))).await?;
    let list: DeploymentList = client.read(answer)?;
    let Some(newest) = list.deployments.first() else {
        return Err(CliError::Failed(format!("{app} was never deployed")));
    };
    if !options.follow {
        let answer = client.get(&format!("/v1/deployments/{}/log", newest.id)).await?;
        output.value(&answer);
        let Log { mut lines } = client.read(answer)?;
        lines.drain(..lines.len().saturating_sub(options.tail.unwrap_or(TAIL)));
        show_lines(&Log { lines }, false, output);
        return Ok(());
    }
    let mut events = client.events(&format!("/v1/deployments/{}/events", newest.id), None).await?;
    while let Some(event) = events.next().await {
        if event.name == "log" {
            show_event(client, &event.data, false, output)?;
        }
    }
    Ok(())
}

fn show_event(client: &Client, data: &str, with_app: bool, output: Output) -> Result<(), CliError> {
    let value: Value = serde_json::from_str(data).unwrap_or_default();
    output.value(&value);
    show_lines(&client.read(value)?, with_app, output);
    Ok(())
}

fn show_lines(log: &Log, with_app: bool, output: Output) {
    for line in &log.lines {
        match &line.app {
            Some(app) if with_app => {
                output.line(&format!("{} {}", output.styled(Style::Bold, app), line.text));
            }
            _ => output.line(&line.text),
        }
    }
}
