//! What the lab asks the control plane while it starts: are you there, and who is connected?

use std::net::Ipv4Addr;

use serde_json::Value;

/// The control plane's public listener, with a token once there is one.
#[derive(Debug)]
pub(crate) struct Api {
    client: reqwest::Client,
    port: u16,
    token: String,
}

impl Api {
    pub(crate) fn new(port: u16) -> reqwest::Result<Self> {
        Ok(Self { client: wisehosting_node::http::client()?, port, token: String::new() })
    }

    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self }
    }

    /// Whether the control plane can do its work.
    pub(crate) async fn is_healthy(&self) -> bool {
        self.get("/healthz").await.is_some()
    }

    /// Whether the agent of that name is connected; `kind` is `workers` or `edges`.
    pub(crate) async fn is_connected(&self, kind: &str, name: &str) -> bool {
        let answer = self.get(&format!("/v1/{kind}")).await.unwrap_or_default();
        answer[kind]
            .as_array()
            .into_iter()
            .flatten()
            .any(|node| node["name"] == name && node["connected"] == true)
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let url = format!("http://{}:{}{path}", Ipv4Addr::LOCALHOST, self.port);
        let answer = self.client.get(url).bearer_auth(&self.token).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }
}
