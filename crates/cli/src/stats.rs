//! The command `stats`: what apps and their instances use.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    answers::{App, AppList, AppStats, InstanceStats},
    arguments::Stats,
    client::{Client, segment},
    error::CliError,
    output::{Output, print},
    sizes::{in_cores, in_mebibytes, in_rough_bits_per_s, in_rough_bytes_per_s},
};

/// As often as there is something new.
const WATCH_EVERY: Duration = Duration::from_secs(10);
/// Begins a terminal's screen anew.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// What stands where nothing is known.
const UNKNOWN: &str = "-";

pub(crate) async fn stats(client: &Client, options: &Stats, output: Output) -> Result<(), CliError> {
    loop {
        let path = options.app.as_ref().map(|app| format!("/v1/apps/{}/stats", segment(app)));
        let answer = client.get(path.as_deref().unwrap_or("/v1/apps")).await?;
        if options.watch && output.is_terminal() {
            print(CLEAR);
        }
        output.value(&answer);
        if path.is_some() {
            let AppStats { instances } = client.read(answer)?;
            show_instances(&instances, output);
        } else {
            let AppList { apps } = client.read(answer)?;
            let rows: Vec<_> = apps.iter().map(app_row).collect();
            output.table(&["APP", "STATE", "CPU", "MEMORY"], &rows);
        }
        if !options.watch {
            return Ok(());
        }
        sleep(WATCH_EVERY).await;
    }
}

fn app_row(app: &App) -> Vec<String> {
    let used =
        |show: fn(&crate::answers::AppUsage) -> String| app.usage.as_ref().map_or(UNKNOWN.to_owned(), show);
    vec![
        app.name.clone(),
        app.state.clone(),
        used(|usage| in_cores(usage.cpu_millis)),
        used(|usage| in_mebibytes(usage.memory_bytes)),
    ]
}

fn show_instances(instances: &[InstanceStats], output: Output) {
    if instances.is_empty() {
        output.line("no instance runs");
        return;
    }
    let head = [
        "INSTANCE",
        "WORKER",
        "STATE",
        "CPU",
        "MEMORY",
        "PROCESSES",
        "RECEIVES",
        "SENDS",
        "DISK",
        "READS",
        "WRITES",
    ];
    output.table(&head, &instances.iter().map(instance_row).collect::<Vec<_>>());
}

fn instance_row(instance: &InstanceStats) -> Vec<String> {
    let usage = instance.usage.as_ref();
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    let of = |used: String, all: String| format!("{used} of {all}");
    vec![
        instance.instance_id.get(..8).unwrap_or(&instance.instance_id).to_owned(),
        instance.worker.clone(),
        instance.state.clone(),
        or_unknown(
            usage
                .and_then(|usage| usage.cpu_millis)
                .map(|millis| of(in_cores(millis), in_cores(instance.cpu_millis_max))),
        ),
        or_unknown(
            usage.map(|usage| of(in_mebibytes(usage.memory_bytes), in_mebibytes(instance.memory_bytes_max))),
        ),
        or_unknown(usage.map(|usage| usage.processes.to_string())),
        or_unknown(usage.and_then(|usage| usage.received_bytes_per_s).map(in_rough_bits_per_s)),
        or_unknown(usage.and_then(|usage| usage.sent_bytes_per_s).map(in_rough_bits_per_s)),
        or_unknown(usage.and_then(|usage| usage.disk_bytes).map(in_mebibytes)),
        or_unknown(usage.and_then(|usage| usage.disk_read_bytes_per_s).map(in_rough_bytes_per_s)),
        or_unknown(usage.and_then(|usage| usage.disk_written_bytes_per_s).map(in_rough_bytes_per_s)),
    ]
}
