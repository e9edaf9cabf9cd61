//! Whether a host name leads here: asked before the certificate authority is, which counts failures.
//!
//! It must lead to edges alone. The authority looks at any of its addresses, and visitors do: one that leads elsewhere, as
//! an old record of the other family does, fails by chance.

use super::{config::AcmeConfig, dns};
use std::{collections::BTreeSet, io, net::IpAddr};
use wisehosting_domain::name::Hostname;

/// Why a name is not ordered for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReachError {
    #[error("it does not resolve: create a DNS record that leads to {wanted}")]
    Unresolved { wanted: String, source: Option<io::Error> },
    #[error("it leads to {found}: change its DNS records so that it leads to nothing but {wanted}")]
    Elsewhere { found: String, wanted: String },
}

/// Looks the name up. Where it should lead may not be known; then it must lead somewhere.
pub(super) async fn check(host: &Hostname, config: &AcmeConfig) -> Result<(), ReachError> {
    let found = match config.dns_server {
        Some(server) => dns::lookup(server, host).await,
        None => lookup(host).await,
    };
    let (found, source) = match found {
        Ok(found) => (found.iter().map(IpAddr::to_canonical).collect(), None),
        Err(error) => (BTreeSet::new(), Some(error)),
    };
    let ours = &config.public_addresses;
    let wanted = || if ours.is_empty() { "this host".to_owned() } else { list(ours) };
    if found.is_empty() {
        return Err(ReachError::Unresolved { wanted: wanted(), source });
    }
    let mut elsewhere = found.iter().filter(|address| !ours.contains(address)).peekable();
    if ours.is_empty() || elsewhere.peek().is_none() {
        return Ok(());
    }
    Err(ReachError::Elsewhere { found: list(elsewhere), wanted: wanted() })
}

/// As this host looks names up.
async fn lookup(host: &Hostname) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host.as_str(), 443)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

fn list<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    addresses.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(public_addresses: &[&str]) -> AcmeConfig {
        AcmeConfig {
            directory: String::new(),
            terms_agreed: true,
            email: None,
            challenge: Default::default(),
            public_addresses: public_addresses.iter().map(|address| address.parse().unwrap()).collect(),
            dns_server: None,
            root_certificate: None,
        }
    }

    #[tokio::test]
    async fn a_name_must_lead_to_edges_alone_or_at_least_somewhere() {
        let (localhost, nowhere) = ("localhost".parse().unwrap(), "nowhere.invalid".parse().unwrap());
        check(&localhost, &config(&["192.0.2.7", "127.0.0.1", "::1"])).await.unwrap();
        check(&localhost, &config(&[])).await.unwrap();
        let error = check(&localhost, &config(&["192.0.2.7"])).await.unwrap_err();
        assert!(error.to_string().ends_with("so that it leads to nothing but 192.0.2.7"), "{error}");
        for ours in [&["127.0.0.1"][..], &[]] {
            let error = check(&nowhere, &config(ours)).await.unwrap_err();
            assert!(matches!(error, ReachError::Unresolved { .. }), "{error}");
        }
    }
}
