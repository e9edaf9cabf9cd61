//! The command `mesh status`: the ways between the platform's machines.

use crate::{
    answers::{Mesh, MeshLink, MeshNode},
    client::Client,
    error::CliError,
    output::Output,
    sizes::in_mebibytes,
};

/// What stands where nothing is known.
const UNKNOWN: &str = "-";

pub(crate) async fn status(client: &Client, output: Output) -> Result<(), CliError> {
    let answer = client.get("/v1/mesh").await?;
    output.value(&answer);
    let Mesh { nodes, .. } = client.read(answer)?;
    let rows: Vec<Vec<String>> = nodes.iter().flat_map(rows).collect();
    output.table(&["HOST", "TO", "PATH", "HANDSHAKE", "ROUND TRIP", "RECEIVED", "SENT"], &rows);
    Ok(())
}

fn rows(node: &MeshNode) -> Vec<Vec<String>> {
    match &node.told {
        Some(told) if node.connected && !told.links.is_empty() => {
            told.links.iter().map(|link| row(&node.name, link)).collect()
        }
        _ => {
            let mut row = vec![node.name.clone()];
            row.resize(7, UNKNOWN.to_owned());
            row[2] = if node.connected { "not told yet" } else { "away" }.to_owned();
            vec![row]
        }
    }
}

fn row(from: &str, link: &MeshLink) -> Vec<String> {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    vec![
        from.to_owned(),
        link.name.clone(),
        link.path.clone(),
        or_unknown(link.handshake_age_ms.map(|age| format!("{} s ago", age / 1_000))),
        or_unknown(link.round_trip_us.map(in_milliseconds)),
        in_mebibytes(link.received_bytes),
        in_mebibytes(link.sent_bytes),
    ]
}

/// Such as `0.42 ms`.
pub(crate) fn in_milliseconds(microseconds: u64) -> String {
    format!("{}.{:02} ms", microseconds / 1_000, microseconds % 1_000 / 10)
}
