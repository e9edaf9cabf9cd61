//! Traefik as the ingress: routes as files of a directory that it watches.
//!
//! One file holds what the control plane pushed ([`pushed`]), one each a route that the gateway's API was asked for
//! ([`routes`]). Invariant: one bad file would make Traefik drop all of them, so each is whole at every moment
//! ([`directory`]) and made of checked values alone.

pub mod directory;
pub mod pushed;
pub mod routes;

use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddrV4, str::FromStr};
use wisehosting_domain::{
    name::{Hostname, Word},
    traefik::{Document, Front, render_one},
};

/// A route that the API was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRoute {
    /// Its name, and that of its file.
    pub route_id: Word,
    /// Who asks for this host name is led there.
    pub hostname: Hostname,
    /// Where it leads.
    pub target_url: TargetUrl,
    /// Where Traefik takes the requests; without one, at its default entrypoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Word>,
    /// Who makes the certificate; without one, TLS is as the entrypoint has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certresolver: Option<Word>,
}

impl HttpRoute {
    fn document(&self) -> Document {
        let front = Front { entrypoint: self.entrypoint.clone(), certresolver: self.certresolver.clone() };
        render_one(&self.route_id, &self.hostname, &front, self.target_url.to_string())
    }
}

/// `http://10.50.0.12:8080`: an address and a port, without a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetUrl {
    secure: bool,
    /// Where it is.
    pub address: SocketAddrV4,
}

/// A text that is no [`TargetUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use http://ADDRESS:PORT or https://ADDRESS:PORT, with an IPv4 address and without a path")]
pub struct NoTargetUrl;

impl FromStr for TargetUrl {
    type Err = NoTargetUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(NoTargetUrl)?;
        let (secure, default_port) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return Err(NoTargetUrl),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let without_port = || rest.parse().map(|address| SocketAddrV4::new(address, default_port));
        let address = rest.parse().or_else(|_| without_port()).map_err(|_| NoTargetUrl)?;
        if address.port() == 0 { Err(NoTargetUrl) } else { Ok(Self { secure, address }) }
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address)
    }
}

impl TryFrom<String> for TargetUrl {
    type Error = NoTargetUrl;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TargetUrl> for String {
    fn from(url: TargetUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_and_a_port() {
        for (text, read) in [
            ("http://10.50.0.12:8080", "http://10.50.0.12:8080"),
            ("http://10.50.0.12/", "http://10.50.0.12:80"),
            ("https://10.50.0.12", "https://10.50.0.12:443"),
        ] {
            assert_eq!(text.parse::<TargetUrl>().map(|url| url.to_string()).as_deref(), Ok(read));
        }
        for bad in [
            "",
            "10.50.0.12:80",
            "ftp://10.50.0.12",
            "http://app:80",
            "http://10.50.0.12:0",
            "http://10.50.0.12:80/path",
            "http://10.50.0.12:80//",
            "http://user@10.50.0.12:80",
            "http://10.50.0.12:80\"",
            "http://{{10.50.0.12:80",
        ] {
            assert_eq!(bad.parse::<TargetUrl>(), Err(NoTargetUrl), "{bad}");
        }
    }
}
