//! Requests to an app through the proxy, with and without TLS, as a visitor's browser makes them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use reqwest::Certificate;
use serde::Serialize;
use wisehosting_lab::Lab;

use super::millis;
use crate::error::CliError;

/// What a visitor got.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Visit {
    pub(crate) url: String,
    pub(crate) status: u16,
    pub(crate) took_ms: u64,
}

/// Visits the app over http and over https, trusting the lab's authority only.
pub(crate) async fn through_the_proxy(lab: &Lab, app: &str) -> Result<Vec<Visit>, CliError> {
    let running = lab.running();
    let path = running.authority_file.clone();
    let authority = fs::read(&path).map_err(|source| CliError::File { path, source })?;
    let mut visits = Vec::new();
    for (scheme, port) in [("http", running.http_port), ("https", running.https_port)] {
        let url = format!("{scheme}://{app}.localhost:{port}/");
        let visit = visit(&url, app, port, &authority).await;
        let visit =
            visit.map_err(|source| CliError::Unreachable { server: url, source: source.without_url() })?;
        if visit.status != 200 {
            return Err(CliError::Failed(format!("{} answered with status {}", visit.url, visit.status)));
        }
        visits.push(visit);
    }
    Ok(visits)
}

async fn visit(url: &str, app: &str, port: u16, authority: &[u8]) -> reqwest::Result<Visit> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .resolve(&format!("{app}.localhost"), SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .tls_certs_only([Certificate::from_pem(authority)?])
        .build()?;
    let begun = Instant::now();
    let response = client.get(url).send().await?;
    let status = response.status().as_u16();
    response.bytes().await?;
    Ok(Visit { url: url.to_owned(), status, took_ms: millis(begun) })
}
