//! The view that stays in front: hosts and apps, refreshed in place on a terminal, changed lines elsewhere.

use std::{collections::BTreeSet, time::Duration};

use wisehosting_lab::Lab;

use crate::{
    answers::{App, AppList, Edge, EdgeList, Worker, WorkerList},
    client::Client,
    error::CliError,
    output::{Output, Style, print},
    sizes::{count, in_mebibytes},
};

/// How often the control plane is asked.
const REFRESH: Duration = Duration::from_secs(1);

/// Shows the lab until one of its programs ends by itself, which is an error. New apps are given certificates.
pub(crate) async fn watch(lab: &mut Lab, client: &Client, output: Output) -> Result<(), CliError> {
    let mut view = View { output, shown: Vec::new() };
    let mut certified = BTreeSet::new();
    loop {
        if let Some(program) = lab.programs.ended() {
            let message = format!("{} has ended; the end of its log:", program.name());
            let lines = program.last_lines(12).into_iter().map(|line| format!("\n    {line}"));
            return Err(CliError::Failed(lines.fold(message, |text, line| text + &line)));
        }
        match Snapshot::take(client).await {
            Ok(snapshot) => {
                for app in &snapshot.apps {
                    if certified.insert(app.name.clone()) {
                        lab.issue_certificate(&format!("{}.localhost", app.name))?;
                    }
                }
                view.show(&snapshot.lines(output));
            }
            Err(error) => view.show(&[format!("  {}", error.whole_message())]),
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// The state of everything at one time.
struct Snapshot {
    workers: Vec<Worker>,
    edges: Vec<Edge>,
    apps: Vec<App>,
}

impl Snapshot {
    async fn take(client: &Client) -> Result<Self, CliError> {
        let WorkerList { workers } = client.read(client.get("/v1/workers").await?)?;
        let EdgeList { edges } = client.read(client.get("/v1/edges").await?)?;
        let AppList { apps } = client.read(client.get("/v1/apps").await?)?;
        Ok(Self { workers, edges, apps })
    }

    fn lines(&self, output: Output) -> Vec<String> {
        let state = |state: &str| {
            let style = if state == "connected" { Style::Good } else { Style::Bad };
            output.styled(style, &format!("{state:<9}"))
        };
        let workers = self.workers.iter().map(|worker| {
            let memory = in_mebibytes(worker.memory_bytes_used);
            let instances = count(worker.instances, "instance");
            format!("  {:<16} {}  {instances}, {memory}", worker.name, state(&worker.state))
        });
        let edges = self.edges.iter().map(|edge| {
            format!("  {:<16} {}  route table {}", edge.name, state(edge.state()), edge.acked_generation)
        });
        let apps = self.apps.iter().map(|app| {
            let newest = app.latest.as_ref().map_or(String::new(), |latest| format!("  #{}", latest.number));
            format!("  {:<16} {:<9}  {}{newest}", app.name, app.state, app.url)
        });
        workers.chain(edges).chain(apps).collect()
    }
}

/// What is on the screen.
struct View {
    output: Output,
    shown: Vec<String>,
}

impl View {
    fn show(&mut self, lines: &[String]) {
        if lines == self.shown {
            return;
        }
        if self.output.is_terminal() {
            // Up to the first line of the last view, then clear from there on.
            let up = self.shown.len();
            let back = if up == 0 { String::new() } else { format!("\x1b[{up}A\r\x1b[J") };
            print(&format!("{back}{}", lines.join("\n")));
        } else {
            for line in lines.iter().filter(|line| !self.shown.contains(line)) {
                self.output.line(line);
            }
        }
        self.shown = lines.to_vec();
    }
}
