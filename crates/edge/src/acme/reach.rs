//! Whether a host name leads here: asked before the certificate authority is, which counts failures.

use std::{collections::BTreeSet, io, net::IpAddr};
use wisehosting_domain::name::Hostname;

/// Why a name is not ordered for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReachError {
    #[error("it does not resolve: create a DNS record that leads to {wanted}")]
    Unresolved { wanted: String, source: io::Error },
    #[error("it leads to {found}: change its DNS record so that it leads to {wanted}")]
    Elsewhere { found: String, wanted: String },
}

/// Looks the name up, if it is known where it should lead.
pub(super) async fn check(host: &Hostname, ours: &[IpAddr]) -> Result<(), ReachError> {
    if ours.is_empty() {
        return Ok(());
    }
    let wanted = list(ours.iter());
    match tokio::net::lookup_host((host.as_str(), 443)).await {
        Ok(found) => {
            let found: BTreeSet<_> = found.map(|address| address.ip().to_canonical()).collect();
            if found.iter().any(|address| ours.contains(address)) {
                return Ok(());
            }
            Err(ReachError::Elsewhere { found: list(found.iter()), wanted })
        }
        Err(source) => Err(ReachError::Unresolved { wanted, source }),
    }
}

fn list<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    addresses.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_must_lead_to_one_of_our_addresses_if_they_are_known() {
        let (localhost, elsewhere) = ("localhost".parse().unwrap(), "192.0.2.7".parse().unwrap());
        let ours = [elsewhere, "127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        check(&localhost, &ours).await.unwrap();
        check(&"nowhere.invalid".parse().unwrap(), &[]).await.unwrap();
        let error = check(&localhost, &[elsewhere]).await.unwrap_err();
        assert!(error.to_string().ends_with("so that it leads to 192.0.2.7"), "{error}");
        let error = check(&"nowhere.invalid".parse().unwrap(), &ours).await.unwrap_err();
        assert!(matches!(error, ReachError::Unresolved { .. }), "{error}");
    }
}
