//! A certificate with its key, as it is shown to visitors: whether the two are a pair, for whom, from when to when, and whose
//! word it is. Nobody keeps or shows one that was not read here.

use rustls::{
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::ring::{default_provider, sign::any_supported_type},
    pki_types::{
        CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject as _},
    },
    sign::CertifiedKey,
};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use wisehosting_domain::name::Hostname;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::tls::Authorities;

/// An authority's clock may be so much ahead.
const CLOCK_SKEW: time::Duration = time::Duration::minutes(5);

/// Why a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// One of the two is no PEM.
    #[error("it is not in PEM")]
    Pem(#[from] pem::Error),
    /// The key is not the certificate's, or of a kind that TLS does not have.
    #[error("the certificate or its key cannot be used")]
    Key(#[from] rustls::Error),
    /// The certificate is none.
    #[error("the certificate cannot be read")]
    Certificate(#[from] x509_parser::nom::Err<x509_parser::error::X509Error>),
    /// It is for nobody whom a visitor could ask for.
    #[error("the certificate has no host name")]
    NoName,
    /// It is for somebody else.
    #[error("the certificate is not for {0}")]
    OtherName(Hostname),
}

/// Why a chain is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Nobody is trusted.
    #[error("no certificate authority is trusted")]
    NoAuthority,
    /// It is not good now, or leads to nobody who is trusted.
    #[error("the chain does not hold")]
    Chain(#[from] rustls::Error),
    /// The host name is none of DNS.
    #[error("the host name cannot be in a certificate")]
    Name(#[from] InvalidDnsNameError),
}

/// A certificate, those that lead from it to a root, and its key.
#[derive(Debug)]
pub struct Pair {
    /// What is shown, and what it is signed with.
    pub key: Arc<CertifiedKey>,
    /// The host names in the certificate, in lower case; one may begin with `*.`.
    pub names: Vec<String>,
    /// Good from then on.
    pub not_before: OffsetDateTime,
    /// Good until then.
    pub not_after: OffsetDateTime,
}

impl Pair {
    /// Reads a pair in PEM.
    ///
    /// # Errors
    /// It is none that TLS can use, or has no host name.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, PairError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        let key = CertifiedKey::new(chain, any_supported_type(&PrivateKeyDer::from_pem_slice(key)?)?);
        key.keys_match()?;
        let (_, certificate) = X509Certificate::from_der(key.end_entity_cert()?)?;
        let names = names(&certificate)?;
        if names.is_empty() {
            return Err(PairError::NoName);
        }
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        Ok(Self { key: Arc::new(key), names, not_before, not_after })
    }

    /// Reads a pair in PEM that is for this host name.
    ///
    /// # Errors
    /// As [`Self::from_pem`]; or it is for others.
    pub fn of(host: &Hostname, chain: &[u8], key: &[u8]) -> Result<Self, PairError> {
        let pair = Self::from_pem(chain, key)?;
        let of_wildcard = host.as_str().split_once('.').map(|(_, domain)| format!("*.{domain}"));
        let is_it = |name: &String| name == host.as_str() || Some(name) == of_wildcard.as_ref();
        if pair.names.iter().any(is_it) { Ok(pair) } else { Err(PairError::OtherName(host.clone())) }
    }

    /// Whether the chain is good now for a visitor of this host name who trusts these authorities.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn holds(
        &self,
        host: &Hostname,
        authorities: &Authorities,
        now: OffsetDateTime,
    ) -> Result<(), ChainError> {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(authorities.clone(), provider).build();
        let verifier = verifier.map_err(|_| ChainError::NoAuthority)?;
        let (certificate, others) =
            self.key.cert.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let at = if self.not_before - now < CLOCK_SKEW { now.max(self.not_before) } else { now };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unix_timestamp().try_into().unwrap_or(0)));
        let name = ServerName::try_from(host.as_str())?;
        verifier.verify_server_cert(certificate, others, &name, &[], at)?;
        Ok(())
    }
}

/// Who has issued a certificate in PEM, in the certificate's words.
#[must_use]
pub fn issuer_of(chain: &str) -> Option<String> {
    let certificate = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
    Some(certificate.issuer().to_string())
}

/// The host names in a certificate, in lower case.
fn names(
    certificate: &X509Certificate<'_>,
) -> Result<Vec<String>, x509_parser::nom::Err<x509_parser::error::X509Error>> {
    let extension = certificate.subject_alternative_name().map_err(x509_parser::nom::Err::Failure)?;
    let all = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    Ok(all.iter().filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::RootCertStore;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn authority(name: &str) -> (Issuer<'static, KeyPair>, Arc<RootCertStore>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        (Issuer::new(params, key), Arc::new(roots))
    }

    /// A pair of an authority's, good from so many days before until so many after.
    fn pem(issuer: &Issuer<'_, KeyPair>, host: &str, days: [i64; 2]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = NOW + time::Duration::days(days[0]);
        params.not_after = NOW + time::Duration::days(days[1]);
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    }

    fn host(name: &str) -> Hostname {
        name.parse().unwrap()
    }

    fn read(host_name: &str, (chain, key): &(String, String)) -> Result<Pair, PairError> {
        Pair::of(&host(host_name), chain.as_bytes(), key.as_bytes())
    }

    #[test]
    fn a_pair_says_for_whom_and_when_it_is_good() {
        let (issuer, _) = authority("an authority");
        let pair = read("a.example.org", &pem(&issuer, "*.Example.org", [-1, 89])).unwrap();
        assert_eq!(pair.names, ["*.example.org"]);
        assert_eq!(
            (pair.not_before, pair.not_after),
            (NOW - time::Duration::DAY, NOW + time::Duration::days(89))
        );
        assert_eq!(issuer_of(&pem(&issuer, "a.example.org", [-1, 89]).0).as_deref(), Some("CN=an authority"));
        let one = pem(&issuer, "a.example.org", [-1, 89]);
        let other = pem(&issuer, "a.example.org", [-1, 89]);
        assert!(matches!(read("b.example.org", &one), Err(PairError::OtherName(_))));
        assert!(matches!(
            read("b.a.example.org", &pem(&issuer, "*.example.org", [-1, 89])),
            Err(PairError::OtherName(_))
        ));
        assert!(matches!(read("a.example.org", &(one.0.clone(), other.1)), Err(PairError::Key(_))));
        assert!(matches!(
            read("a.example.org", &("no chain".to_owned(), one.1.clone())),
            Err(PairError::Key(_))
        ));
        assert!(matches!(read("a.example.org", &(one.0, "no key".to_owned())), Err(PairError::Pem(_))));
    }

    #[test]
    fn a_chain_holds_while_it_is_good_and_leads_to_a_trusted_authority() {
        let (issuer, trusted) = authority("an authority");
        let (stranger, _) = authority("an authority");
        let holds = |host_name: &str, pem: &(String, String), roots: &Authorities| {
            Pair::from_pem(pem.0.as_bytes(), pem.1.as_bytes()).unwrap().holds(&host(host_name), roots, NOW)
        };
        let good = pem(&issuer, "a.example.org", [-1, 89]);
        holds("a.example.org", &good, &trusted).unwrap();
        holds("b.example.org", &good, &trusted).unwrap_err();
        for days in [[-90, -1], [1, 90]] {
            let error = holds("a.example.org", &pem(&issuer, "a.example.org", days), &trusted).unwrap_err();
            assert!(matches!(error, ChainError::Chain(_)), "{error:?}");
        }
        let none = crate::tls::nobody();
        assert!(matches!(holds("a.example.org", &good, &none), Err(ChainError::NoAuthority)));
        holds("a.example.org", &pem(&stranger, "a.example.org", [-1, 89]), &trusted).unwrap_err();
    }
}
