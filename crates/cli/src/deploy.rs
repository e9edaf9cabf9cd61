//! `wisehosting deploy`: make or change the app, deploy it, and follow the deployment to its end.

use std::{fs, io, path::Path, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    answers::{App, Deployment, Log},
    arguments::Deploy,
    client::{Client, Event, segment},
    error::CliError,
    output::{Output, Style},
    sizes,
};

/// How often, and how long after one another, a broken stream of events is taken up again without anything new.
const RECONNECTS: u32 = 10;
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn deploy(client: &Client, options: &Deploy, output: Output) -> Result<(), CliError> {
    set_up_app(client, options, output).await?;
    let queued = queue(client, &options.name, options.branch.as_deref()).await?;
    follow(client, queued, options.no_follow, output).await
}

/// Follows a deployment that was queued, unless that is not wanted.
pub(crate) async fn follow(
    client: &Client,
    queued: Value,
    no_follow: bool,
    output: Output,
) -> Result<(), CliError> {
    if no_follow {
        let deployment: Deployment = client.read(queued.clone())?;
        output.value(&queued);
        output.line(&format!("queued; to follow it: wisehosting deployments {}", deployment.app));
        return Ok(());
    }
    let deployment: Deployment = client.read(queued)?;
    let ended = Follow::new(client, output).until_settled(&deployment.id).await?;
    output.value(&ended);
    verdict(&client.read(ended)?, output)
}

/// Queues a deployment of an app, of a branch other than its own if one is named.
pub(crate) async fn queue(client: &Client, app: &str, branch: Option<&str>) -> Result<Value, CliError> {
    let path = format!("/v1/apps/{}/deployments", segment(app));
    client.post(&path, &json!({ "branch": branch })).await
}

/// Success if it is live, else the reason.
pub(crate) fn verdict(deployment: &Deployment, output: Output) -> Result<(), CliError> {
    if deployment.is_live() {
        let url = deployment.url.as_deref().unwrap_or_default();
        output.line(&format!("{} is live: {}", deployment.app, output.styled(Style::Bold, url)));
        return Ok(());
    }
    let reason = deployment.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    Err(CliError::Failed(format!("{} #{} {}{reason}", deployment.app, deployment.number, deployment.state)))
}

/// Makes the app, or gives an app of that name what the command line says.
async fn set_up_app(client: &Client, options: &Deploy, output: Output) -> Result<(), CliError> {
    let mut body = app_settings(options)?;
    let path = format!("/v1/apps/{}", segment(&options.name));
    match client.get(&path).await {
        Ok(existing) => {
            let existing: App = client.read(existing)?;
            // Whether there is such a branch is not known yet: it is tried by this deployment only.
            body.remove("branch");
            let changed: App = client.read(client.patch(&path, &Value::Object(body)).await?)?;
            if existing.settings.login.is_some() && changed.settings.login.is_none() && !options.no_login {
                output.line("its login was for another host and is forgotten: --login-file sets a new one");
            }
            let (before, now) = (existing.settings.repository, changed.settings.repository);
            if before != now {
                output.line(&format!(
                    "{} was deployed from {before} and is now deployed from {now}",
                    changed.name
                ));
            }
        }
        // What is wrong with the name, the answer to the creation says best.
        Err(CliError::Refused(_)) => {
            body.insert("name".to_owned(), json!(options.name));
            if let Some(Value::Object(environment)) = body.get_mut("environment") {
                environment.retain(|_, value| !value.is_null());
            }
            client.post("/v1/apps", &Value::Object(body)).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn app_settings(options: &Deploy) -> Result<Map<String, Value>, CliError> {
    let mut body = Map::new();
    body.insert("repository".to_owned(), json!(repository(&options.repository)?));
    let settings = [
        ("branch", options.branch.clone().map(Value::from)),
        ("port", options.port.map(Value::from)),
        ("preset", options.preset.clone().map(Value::from)),
        ("read_only", options.read_only.map(Value::from)),
        ("health_path", options.health_path.clone().map(Value::from)),
        ("health_timeout_ms", options.health_timeout.map(|seconds| Value::from(u64::from(seconds) * 1000))),
    ];
    body.extend(given(settings));
    if let Some(file) = &options.login_file {
        body.insert("login".to_owned(), login(file, options.login_user.as_deref())?);
    } else if options.no_login {
        body.insert("login".to_owned(), Value::Null);
    }
    let limits = [
        ("memory_bytes", options.memory.map(Value::from)),
        ("cpu_millis", options.cpus.map(Value::from)),
        ("pids", options.pids.map(Value::from)),
        ("bandwidth_bits_per_s", options.bandwidth.map(|limit| Value::from(limit.bits_per_s))),
        ("disk_bytes", options.disk.map(|limit| Value::from(limit.bytes))),
    ];
    let limits: Map<String, Value> = given(limits).collect();
    if !limits.is_empty() {
        body.insert("limits".to_owned(), Value::Object(limits));
    }
    let environment = environment(options)?;
    if !environment.is_empty() {
        body.insert("environment".to_owned(), Value::Object(environment));
    }
    Ok(body)
}

/// The variables that the command line and its file set, or, with null, remove.
fn environment(options: &Deploy) -> Result<Map<String, Value>, CliError> {
    let mut environment = Map::new();
    if let Some(file) = &options.env_file {
        let text = read_secret("--env-file", file)?;
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            // Not the line itself: it may be a secret.
            let (name, value) = sizes::variable(line).map_err(|error| {
                CliError::Usage(format!("--env-file: {}, line {}: {error}", file.display(), number + 1))
            })?;
            environment.insert(name, Value::from(value));
        }
    }
    environment.extend(options.environment.iter().map(|(name, value)| (name.clone(), json!(value))));
    environment.extend(options.remove_env.iter().map(|name| (name.clone(), Value::Null)));
    Ok(environment)
}

/// What stands in a file, or what standard input holds: the command line is no place for a secret.
fn read_secret(option: &str, file: &Path) -> Result<String, CliError> {
    let read =
        if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    read.map_err(|error| CliError::Usage(format!("{option}: cannot read {}: {error}", file.display())))
}

fn login(file: &Path, user: Option<&str>) -> Result<Value, CliError> {
    let text = read_secret("--login-file", file)?;
    let mut login = json!({ "password": text.trim_end_matches(['\n', '\r']) });
    if let Some(user) = user {
        login["username"] = json!(user);
    }
    Ok(login)
}

/// Those that the command line has.
fn given<const N: usize>(values: [(&str, Option<Value>); N]) -> impl Iterator<Item = (String, Value)> {
    values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

/// An address as it is; a path of this machine made absolute.
fn repository(text: &str) -> Result<String, CliError> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let path = Path::new(text).canonicalize().map_err(|error| {
        CliError::Usage(format!(
            "{text} is neither an address (https://…) nor a folder of this machine: {error}"
        ))
    })?;
    Ok(path.to_string_lossy().into_owned())
}

/// Shows a deployment while it goes: a line for each step, with the time since it was asked for, and the build's log.
pub(crate) struct Follow<'a> {
    client: &'a Client,
    output: Output,
    steps_shown: usize,
    last_line: Option<u64>,
    latest: Option<Value>,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(client: &'a Client, output: Output) -> Self {
        Self { client, output, steps_shown: 0, last_line: None, latest: None }
    }

    /// Follows it until it is live or has failed, and answers it as it is then. A control plane that restarts meanwhile
    /// is waited for.
    pub(crate) async fn until_settled(mut self, id: &str) -> Result<Value, CliError> {
        let mut failures = 0;
        loop {
            let after = self.last_line.map(|line| format!("?after={line}")).unwrap_or_default();
            match self.client.events(&format!("/v1/deployments/{id}/events{after}"), None).await {
                Ok(mut events) => {
                    while let Some(event) = events.next().await {
                        failures = 0;
                        self.show(&event)?;
                    }
                }
                Err(CliError::Unreachable { .. } | CliError::ServerFailed { .. })
                    if failures < RECONNECTS => {}
                Err(error) => return Err(error),
            }
            if let Some(value) = self.latest.take() {
                let deployment: Deployment = self.client.read(value.clone())?;
                if deployment.is_settled() {
                    return Ok(value);
                }
            }
            failures += 1;
            if failures > RECONNECTS {
                return Err(CliError::Failed(format!(
                    "the events of deployment {id} broke off; it goes on by itself"
                )));
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn show(&mut self, event: &Event) -> Result<(), CliError> {
        let unexpected = |error| CliError::Failed(format!("unexpected event {}: {error}", event.name));
        match event.name.as_str() {
            "state" => {
                let value: Value = serde_json::from_str(&event.data).map_err(unexpected)?;
                let deployment: Deployment = self.client.read(value.clone())?;
                self.show_steps(&deployment);
                self.latest = Some(value);
            }
            "log" => {
                let log: Log = serde_json::from_str(&event.data).map_err(unexpected)?;
                for line in log.lines {
                    self.last_line = Some(line.number);
                    let text = format!("              {}", line.text);
                    self.output.line(&self.output.styled(Style::Dim, &text));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn show_steps(&mut self, deployment: &Deployment) {
        let mut since_start_ms = 0;
        for (index, step) in deployment.steps.iter().enumerate() {
            if index >= self.steps_shown {
                let style = match step.state.as_str() {
                    "live" => Style::Good,
                    "failed" | "cancelled" => Style::Bad,
                    _ => Style::Bold,
                };
                let state = self.output.styled(style, &step.state);
                self.output.line(&step_line(since_start_ms, &state));
            }
            since_start_ms += step.duration_ms.unwrap_or_default();
        }
        self.steps_shown = deployment.steps.len();
    }
}

/// One step of anything: when, and what.
pub(crate) fn step_line(at_ms: u64, what: &str) -> String {
    format!("{:>6}.{:02} s  {what}", at_ms / 1000, at_ms % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn asked(arguments: &[&str]) -> Deploy {
        let command = Deploy::augment_args(clap::Command::new("deploy"));
        let given = ["deploy", "https://example.org/app.git", "--name", "app"].iter().chain(arguments);
        Deploy::from_arg_matches(&command.get_matches_from(given)).expect("understood")
    }

    #[test]
    fn variables_come_from_a_file_and_the_command_line_has_the_last_word() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "# secrets\nA=1\n\nB=x=y # z\nC=\nD=4\n").expect("written");
        let path = file.path().to_str().expect("text");
        let options = asked(&["--env-file", path, "--env", "A=2", "--remove-env", "D", "--remove-env", "E"]);
        let expected = json!({ "A": "2", "B": "x=y # z", "C": "", "D": null, "E": null });
        assert_eq!(Value::Object(environment(&options).expect("read")), expected);
    }

    #[test]
    fn a_line_that_is_no_variable_is_named_by_its_number_alone() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "A=1\nhunter2\n").expect("written");
        let error = environment(&asked(&["--env-file", file.path().to_str().expect("text")]))
            .expect_err("no variable");
        let told = error.to_string();
        assert!(told.contains("line 2: write KEY=VALUE") && !told.contains("hunter2"), "{told}");
    }
}
