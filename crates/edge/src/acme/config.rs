//! `[ingress.acme]`: how to get certificates for apps.

use serde::Deserialize;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};
use wisehosting_domain::certificate::ChallengeKind;
use wisehosting_node::config::ConfigError;

/// The table. There is none unless certificates are to be ordered.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// The certificate authority's directory.
    #[serde(default = "lets_encrypt")]
    pub directory: String,
    /// That its terms are agreed to, without which it gives no account.
    pub terms_agreed: bool,
    /// Whom it may write to.
    pub email: Option<String>,
    /// How it is shown that a host name leads here.
    #[serde(default)]
    pub challenge: ChallengeKind,
    /// The public addresses of all edges. If any is given, a host name that leads to any other is not ordered for.
    #[serde(default)]
    pub public_addresses: Vec<IpAddr>,
    /// The DNS server that is asked where a host name leads; without it, as this host looks names up.
    pub dns_server: Option<SocketAddr>,
    /// PEM file with the authority's own root, for one that hosts do not know.
    pub root_certificate: Option<PathBuf>,
}

fn lets_encrypt() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".to_owned()
}

impl AcmeConfig {
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.terms_agreed {
            let message = "is false: read the terms of the certificate authority, and set it to true";
            return Err(ConfigError::invalid("ingress.acme.terms_agreed", message));
        }
        if !self.directory.starts_with("https://") {
            return Err(ConfigError::invalid("ingress.acme.directory", "is not an https URL"));
        }
        if let Some(SocketAddr::V6(server)) = self.dns_server
            && server.scope_id() != 0
        {
            let message = "is an address of one link only: use one that is good anywhere";
            return Err(ConfigError::invalid("ingress.acme.dns_server", message));
        }
        match &self.root_certificate {
            Some(file) if !file.is_file() => {
                let message = format!("{} is not a file", file.display());
                Err(ConfigError::invalid("ingress.acme.root_certificate", message))
            }
            _ => Ok(()),
        }
    }
}
