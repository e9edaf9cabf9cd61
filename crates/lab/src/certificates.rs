//! TLS for the lab: a certificate authority that is born and thrown away with it, and certificates for app names.
//!
//! Invariant: the authority's key never leaves this process, and it may sign names below `localhost` only.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Making or signing it.
    #[error("cannot make the certificate for {name}")]
    Make {
        /// Whose certificate.
        name: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// Writing it.
    #[error("cannot write the certificate for {name}")]
    Write {
        /// Whose certificate.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The lab's certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Makes one.
    pub fn create() -> Result<Self, CertificateError> {
        let name = "WiseHosting lab";
        let failed = |source| CertificateError::Make { name: name.to_owned(), source };
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("localhost".to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let key = KeyPair::generate().map_err(failed)?;
        CertifiedIssuer::self_signed(params, key).map(Self).map_err(failed)
    }

    /// The authority's own certificate, for clients to trust.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes `<name>.crt` (with the authority behind it) and `<name>.key` for one host name.
    ///
    /// Each name has a certificate of its own, since clients refuse the wildcard `*.localhost`: it stands directly
    /// below a top-level domain.
    pub fn issue(&self, name: &str, directory: &Path) -> Result<(), CertificateError> {
        let failed = |source| CertificateError::Make { name: name.to_owned(), source };
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.0).map_err(failed)?;
        let chain = format!("{}{}", certificate.pem(), self.pem());
        let write = |source| CertificateError::Write { name: name.to_owned(), source };
        fs::create_dir_all(directory).map_err(write)?;
        write_private(&directory.join(format!("{name}.key")), &key.serialize_pem()).map_err(write)?;
        // The proxy watches the folder: the certificate appears whole, and after its key.
        let unfinished = directory.join(format!(".{name}.new"));
        fs::write(&unfinished, chain).map_err(write)?;
        fs::rename(&unfinished, directory.join(format!("{name}.crt"))).map_err(write)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Authority")
    }
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, content: &str) -> io::Result<()> {
    use io::Write;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())
}
