//! WireGuard keys: made, encoded, read from a file.
//!
//! A private key is wiped from memory when it is dropped, and there is no way to print it by accident: it has no
//! `Display`, its `Debug` shows nothing, and no error of this module repeats what could not be parsed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use defguard_wireguard_rs::key::Key;
use gotatun::x25519::{self, StaticSecret};
use zeroize::Zeroizing;

/// Bytes of a key, private or public.
const KEY_BYTES: usize = 32;
/// A key file holds 44 characters and a line end; more than this is some other file.
const FILE_LIMIT_BYTES: u64 = 256;
/// What nobody but the owner and, reading, the group may do: a service manager hands a key to a service that is
/// not root by the group.
const FORBIDDEN_MODE: u32 = 0o027;

/// Why a key was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is no base64 of 32 bytes.
    #[error("not a WireGuard key: a key is 32 bytes in base64, 44 characters that end in '='")]
    NotAKey,
    /// The file could not be read or written.
    #[error("cannot {operation} key file {}", path.display())]
    File {
        /// "read" or "write".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than the owner could read or change the file.
    #[error("key file {} has mode {mode:04o}: take the rights of others away (chmod 600)", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// The public half of a key pair: who a peer is. Its text form is base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Wraps the bytes of a key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

/// The secret half of a key pair.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; KEY_BYTES]>);

impl PrivateKey {
    /// Makes a new key from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(Zeroizing::new(Key::generate().as_array()))
    }

    /// The public key that belongs to this one.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(Key::new(*self.0).public_key().as_array())
    }

    /// What this key and another pair's private key have in common (X25519): nobody else can compute it.
    #[must_use]
    pub fn shared_secret(&self, with: &PublicKey) -> Zeroizing<[u8; KEY_BYTES]> {
        let shared = StaticSecret::from(*self.0).diffie_hellman(&x25519::PublicKey::from(with.0));
        Zeroizing::new(shared.to_bytes())
    }

    /// Reads a key file: one key in base64, readable by nobody but its owner (and at most, reading, its group).
    ///
    /// # Errors
    /// `File` if it cannot be read, `TooOpen` if others have rights on it, `NotAKey` for any other content.
    pub fn read_file(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { operation: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & FORBIDDEN_MODE != 0 {
            return Err(KeyError::TooOpen { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_LIMIT_BYTES).read_to_string(&mut text).map_err(failed)?;
        text.trim().parse()
    }

    /// Writes a new key file with mode 0600. A file that exists is never overwritten.
    ///
    /// # Errors
    /// `File`.
    pub fn write_new_file(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |source| KeyError::File { operation: "write", path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(self.to_base64().as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)
    }

    /// The key as text, for a file or another program's input; wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64_STANDARD.encode(*self.0))
    }

    /// The secret bytes, for the backend that needs them.
    pub(crate) fn expose_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text).map_err(|_| KeyError::NotAKey)?);
    let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| KeyError::NotAKey)?;
    Ok(Zeroizing::new(key))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A pair made by the reference implementation's tool.
    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

    #[test]
    fn text_and_back() {
        let private: PrivateKey = PRIVATE.parse().unwrap();
        assert_eq!(private.to_base64().as_str(), PRIVATE);
        let public = private.public_key();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
    }

    #[test]
    fn the_public_key_is_the_curve_point_of_the_private_one() {
        // The vector of RFC 7748, section 6.1 (Alice).
        let private: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        assert_eq!(private.public_key().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn two_pairs_share_a_secret() {
        // The vector of RFC 7748, section 6.1 (Alice and Bob).
        let alice: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        let bob: PrivateKey = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=".parse().unwrap();
        let shared = "Sl2dW6TOLeFyjjv0gDUPJeB+IclH0Z4zdvCbPB4WF0I=";
        assert_eq!(BASE64_STANDARD.encode(*alice.shared_secret(&bob.public_key())), shared);
        assert_eq!(BASE64_STANDARD.encode(*bob.shared_secret(&alice.public_key())), shared);
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let almost = &PRIVATE[1..];
        for text in ["", "secret", almost, "AAAA", &format!("{PRIVATE}{PRIVATE}")] {
            let error = text.parse::<PrivateKey>().unwrap_err();
            assert!(matches!(error, KeyError::NotAKey));
            assert!(text.is_empty() || !format!("{error} {error:?}").contains(text));
        }
    }

    #[test]
    fn a_private_key_does_not_print() {
        assert_eq!(format!("{:?}", PrivateKey::generate()), "PrivateKey(hidden)");
    }

    #[test]
    fn a_file_is_written_once_for_its_owner_only_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.key");
        let key = PrivateKey::generate();
        key.write_new_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(PrivateKey::read_file(&path).unwrap().public_key(), key.public_key());
        assert!(matches!(key.write_new_file(&path), Err(KeyError::File { operation: "write", .. })));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.key");
        PrivateKey::generate().write_new_file(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = PrivateKey::read_file(&path).unwrap_err();
        assert!(error.to_string().ends_with("has mode 0644: take the rights of others away (chmod 600)"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        PrivateKey::read_file(&path).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = PrivateKey::read_file(Path::new("/nowhere/mesh.key")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read key file /nowhere/mesh.key");
    }
}
