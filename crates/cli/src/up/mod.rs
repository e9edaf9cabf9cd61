//! `wisehosting up`: the lab, its first app, and a view of both until it is told to end.
//!
//! Invariant: however a run ends (done, failed, Ctrl-C, a closed terminal), what it started is taken down before it
//! leaves; a run that is killed is cleaned up by the kernel and by the next `up` or `down`.

mod hello;
mod receipt;
mod request;
mod status;

use std::{env, fs, path::PathBuf, sync::Arc, time::Instant};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use wisehosting_lab::{Lab, LabError, LabOptions, event::Event, ports::Port, state};

use self::receipt::Receipt;
use crate::{
    arguments::{Down, Up},
    client::Client,
    connection::Connection,
    deploy::step_line,
    error::CliError,
    output::{Output, Style},
};

/// Ports that are tried first.
const CONTROL_PLANE_PORT: u16 = 8081;
const HTTP_PORT: u16 = 8080;
const HTTPS_PORT: u16 = 8443;

pub(crate) async fn up(options: Up, output: Output) -> Result<(), CliError> {
    let begun = Instant::now();
    let mut stop = Box::pin(told_to_stop()?);
    let lab_options = lab_options(&options, begun, output)?;
    let lab = tokio::select! {
        lab = Lab::start(lab_options) => lab?,
        () = &mut stop => {
            // What had been started ends by itself when its owner, the future above, is dropped.
            state::down(&options.lab.state_dir).await?;
            return Err(CliError::Interrupted);
        }
    };
    let mut session = Session { lab, output, begun };
    let outcome = tokio::select! {
        outcome = session.run(options.once) => outcome,
        () = &mut stop => Ok(None),
    };
    session.end(outcome).await
}

pub(crate) async fn down(options: &Down, output: Output) -> Result<(), CliError> {
    wisehosting_lab::requirements::check_root().map_err(LabError::from)?;
    let cleaned = state::down(&options.state_dir).await?;
    output.value(&json!({ "cleaned": cleaned }));
    output.line(if cleaned.is_nothing() {
        "there was nothing to take down"
    } else {
        "everything is taken down"
    });
    Ok(())
}

/// A lab that has started.
struct Session {
    lab: Lab,
    output: Output,
    begun: Instant,
}

impl Session {
    /// Deploys the first app and shows it; with `once`, answers the receipt, else goes on until a program ends.
    async fn run(&mut self, once: bool) -> Result<Option<Receipt>, CliError> {
        let client = self.client()?;
        let ready = self.begun.elapsed();
        let deployment = hello::deploy(&self.lab, &client, self.output).await?;
        let deployed = self.begun.elapsed();
        let requests = request::through_the_proxy(&self.lab, hello::NAME).await?;
        let mesh = self.lab.mesh_backend().await?;
        if once {
            return Ok(Some(Receipt { ready, deployed, deployment, requests, mesh }));
        }
        self.welcome(mesh).await?;
        status::watch(&mut self.lab, &client, self.output).await?;
        Ok(None)
    }

    /// Takes everything down and prints what is left to say.
    async fn end(self, outcome: Result<Option<Receipt>, CliError>) -> Result<(), CliError> {
        let Self { lab, output, begun } = self;
        output.line("");
        output.line(&step_line(millis(begun), "taking everything down"));
        let stopping = Instant::now();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let logs = lab.state_dir().join("logs");
                lab.stop_keeping_logs().await?;
                output.line(&format!("  the programs' logs stay in {} until the next start", logs.display()));
                return Err(error);
            }
        };
        let cleaned = lab.stop().await?;
        if let Some(receipt) = outcome {
            receipt.print(output, stopping.elapsed(), begun.elapsed(), cleaned);
        } else {
            output.line(&step_line(millis(begun), "everything is taken down"));
        }
        Ok(())
    }

    fn client(&self) -> Result<Client, CliError> {
        let running = self.lab.running();
        let path = running.token_file.clone();
        let token = fs::read_to_string(&path).map_err(|source| CliError::File { path, source })?;
        Client::connect(Connection { server: running.dashboard_url.clone(), token: Some(token) })
    }

    async fn welcome(&self, mesh: &str) -> Result<(), CliError> {
        let (output, running) = (self.output, self.lab.running());
        let login = self.lab.login_link().await?;
        let app = format!("http://{}.localhost:{}", hello::NAME, running.http_port);
        let secure = format!("https://{}.localhost:{}", hello::NAME, running.https_port);
        output.value(&json!({
            "event": "ready", "app_url": app, "app_url_tls": secure, "dashboard_url": running.dashboard_url,
            "sign_in_url": login, "authority_file": running.authority_file, "mesh": mesh,
        }));
        output.line("");
        output.line(&format!("  the app        {}", output.styled(Style::Bold, &app)));
        output.line(&format!("  with TLS       {secure}"));
        output.line(&format!("                 (authority to trust: {})", running.authority_file.display()));
        output.line(&format!("  the dashboard  {}", output.styled(Style::Bold, &login)));
        output.line("                 (signs you in once, within 15 minutes)");
        output.line(&format!("  the mesh       WireGuard, {mesh}"));
        output.line("");
        output.line("  To deploy a repository of your own, in another terminal:");
        output.line(&format!("    {} deploy <address or path> --name <name>", program()));
        output.line("  Ctrl-C takes everything down.");
        output.line("");
        Ok(())
    }
}

fn lab_options(options: &Up, begun: Instant, output: Output) -> Result<LabOptions, CliError> {
    let path = PathBuf::from("/proc/self/exe");
    let own = env::current_exe().map_err(|source| CliError::File { path, source })?;
    let beside = own.parent().map(PathBuf::from).unwrap_or_default();
    let port = |asked: Option<u16>, usual| asked.map_or(Port::Prefer(usual), Port::Exactly);
    Ok(LabOptions {
        state_dir: options.lab.state_dir.clone(),
        bin_dir: options.bin_dir.clone().unwrap_or(beside),
        init: own,
        control_plane_port: port(options.port, CONTROL_PLANE_PORT),
        http_port: port(options.http_port, HTTP_PORT),
        https_port: port(options.https_port, HTTPS_PORT),
        progress: Arc::new(move |event| show(&event, begun, output)),
    })
}

/// A line for each step of the lab's start that is done.
fn show(event: &Event, begun: Instant, output: Output) {
    output.value(&json!(event));
    if let Event::Done { step, detail, .. } = event {
        let name = output.styled(Style::Bold, &format!("{:<14}", step.name()));
        output.line(&step_line(millis(begun), &format!("{name} {detail}")));
    }
}

/// Ready when the user, a service manager or the terminal's end says so.
fn told_to_stop() -> Result<impl Future<Output = ()>, CliError> {
    let listen = |kind| signal(kind).map_err(|source| CliError::File { path: "signals".into(), source });
    let (mut interrupt, mut terminate, mut hang_up) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// How this program was called, for lines to type.
fn program() -> String {
    env::args().next().unwrap_or_else(|| "wisehosting".to_owned())
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
