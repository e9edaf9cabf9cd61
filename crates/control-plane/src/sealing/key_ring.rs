//! The master keys, and what is done with them: AES-256-GCM, with a key for each purpose that HKDF-SHA256 makes of a
//! master key, and a random nonce for each value.
//!
//! The first key seals, all open; so a key is replaced by putting a new one before it.

use std::{fmt, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use secrecy::ExposeSecret as _;
use wisehosting_domain::{
    id::AppId,
    secret::{Sealed, Secret},
};
use wisehosting_node::{config::ConfigError, random, secret};
use zeroize::Zeroizing;

use super::Place;

const SETTING: &str = "secrets.master_key";
const SETTING_FILE: &str = "secrets.master_key_file";
const HOW_TO_MAKE: &str = "make a key with `openssl rand -base64 32`";
const SALT: &[u8] = b"wisehosting secrets at rest, version 1";
/// Enough to tell keys apart, and nothing that helps to find one.
const KEY_ID_LEN: usize = 8;

/// Why a sealed value cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its key is not there.
    #[error("it was sealed with the key {0}, which the control plane does not have")]
    NoKey(String),
    /// It was changed, or it belongs elsewhere.
    #[error("it is damaged, or was sealed for something else")]
    Refused,
}

/// Length in bytes of the secret that was sealed.
#[must_use]
pub fn secret_len(sealed: &Sealed) -> usize {
    let bytes = sealed.value.trim_end_matches('=').len() * 3 / 4;
    bytes.saturating_sub(NONCE_LEN + AES_256_GCM.tag_len())
}

/// The control plane's master keys.
pub struct KeyRing {
    seals: MasterKey,
    opens: Vec<MasterKey>,
}

struct MasterKey {
    id: String,
    derive: Prk,
}

impl KeyRing {
    /// Reads the keys: a line each, 32 bytes in base64, the one that seals first.
    ///
    /// # Errors
    /// Names the setting, and how to make a key.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let text = secret::read(SETTING, file).map_err(|error| match error {
            ConfigError::Invalid { setting, message } => {
                ConfigError::Invalid { setting, message: format!("{message}; {HOW_TO_MAKE}") }
            }
            error => error,
        })?;
        Self::parse(text.expose_secret())
    }

    /// The keys in a text.
    ///
    /// # Errors
    /// Names the setting that the text is the value of, and how to make a key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        let mut keys = lines.map(|(number, line)| {
            MasterKey::parse(line).ok_or_else(|| {
                let message = format!("line {} is not 32 bytes in base64: {HOW_TO_MAKE}", number + 1);
                ConfigError::invalid(SETTING_FILE, message)
            })
        });
        let none = || ConfigError::invalid(SETTING_FILE, format!("holds no key: {HOW_TO_MAKE}"));
        let seals = keys.next().ok_or_else(none)??;
        Ok(Self { seals, opens: keys.collect::<Result<_, _>>()? })
    }

    /// Which key seals now.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.seals.id
    }

    /// Seals a secret of an app for its place.
    ///
    /// # Panics
    /// Never: only texts of 64 GiB cannot be sealed.
    #[must_use]
    pub fn seal(&self, app: AppId, place: Place<'_>, secret: &Secret) -> Sealed {
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut text = secret.expose().as_bytes().to_vec();
        let (key, context) = (self.seals.key_for(place), context(app, place));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut text)
            .expect("the text is short enough");
        let value = BASE64.encode([nonce.as_slice(), &text].concat());
        Sealed { key_id: self.seals.id.clone(), value }
    }

    /// Opens what was sealed for this place of this app.
    ///
    /// # Errors
    /// The key is not there, or the value was not sealed for this place.
    pub fn open(&self, app: AppId, place: Place<'_>, sealed: &Sealed) -> Result<Secret, OpenError> {
        let key = [&self.seals].into_iter().chain(&self.opens).find(|key| key.id == sealed.key_id);
        let key = key.ok_or_else(|| OpenError::NoKey(sealed.key_id.clone()))?;
        let bytes = Zeroizing::new(BASE64.decode(&sealed.value).map_err(|_| OpenError::Refused)?);
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or(OpenError::Refused)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Refused)?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = key.key_for(place).open_in_place(nonce, Aad::from(context(app, place)), &mut text);
        let text = std::str::from_utf8(opened.map_err(|_| OpenError::Refused)?);
        text.map(Secret::from).map_err(|_| OpenError::Refused)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({}, {} older)", self.seals.id, self.opens.len())
    }
}

impl MasterKey {
    fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64.decode(text).ok()?);
        bytes.as_slice().try_into().ok().map(Self::new)
    }

    fn new(key: &[u8; 32]) -> Self {
        let derive = Salt::new(HKDF_SHA256, SALT).extract(key);
        let mut id = [0; KEY_ID_LEN];
        derive
            .expand(&[b"key id"], KeyIdLen)
            .and_then(|okm| okm.fill(&mut id))
            .expect("HKDF makes as few bytes as that");
        Self { id: hex::encode(id), derive }
    }

    fn key_for(&self, place: Place<'_>) -> LessSafeKey {
        let info = ["seal ".as_bytes(), place.purpose().as_bytes()];
        let okm = self.derive.expand(&info, &AES_256_GCM).expect("HKDF makes as few bytes as that");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

struct KeyIdLen;

impl KeyType for KeyIdLen {
    fn len(&self) -> usize {
        KEY_ID_LEN
    }
}

/// What a value is bound to: the app's id has one length, so no two places have one context.
fn context(app: AppId, place: Place<'_>) -> Vec<u8> {
    [app.0.as_bytes().as_slice(), place.name().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const APP: AppId = AppId(Uuid::from_u128(1));
    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn ring(keys: &[[u8; 32]]) -> KeyRing {
        let lines: Vec<_> = keys.iter().map(|key| BASE64.encode(key)).collect();
        KeyRing::parse(&lines.join("\n")).expect("keys")
    }

    #[test]
    fn a_value_opens_in_its_own_place_only() {
        let ring = ring(&[NEW]);
        let place = Place::Variable("KEY");
        let sealed = ring.seal(APP, place, &"hunter2".into());
        assert_eq!(ring.open(APP, place, &sealed), Ok("hunter2".into()));
        assert_ne!(ring.seal(APP, place, &"hunter2".into()), sealed, "each has a nonce of its own");
        let another = AppId(Uuid::from_u128(2));
        assert_eq!(ring.open(another, place, &sealed), Err(OpenError::Refused));
        assert_eq!(ring.open(APP, Place::Variable("OTHER"), &sealed), Err(OpenError::Refused));

        let mut bytes = BASE64.decode(&sealed.value).expect("base64");
        bytes[NONCE_LEN] ^= 1;
        for value in [BASE64.encode(bytes), String::new(), "?".to_owned(), "AAAA".to_owned()] {
            let changed = Sealed { value, ..sealed.clone() };
            assert_eq!(ring.open(APP, place, &changed), Err(OpenError::Refused));
        }
    }

    #[test]
    fn an_older_key_opens_and_the_first_one_seals() {
        let (old, new, both) = (ring(&[OLD]), ring(&[NEW]), ring(&[NEW, OLD]));
        let place = Place::Variable("KEY");
        let sealed = old.seal(APP, place, &"value".into());
        assert_eq!(both.open(APP, place, &sealed), Ok("value".into()));
        assert_eq!(new.open(APP, place, &sealed), Err(OpenError::NoKey(old.key_id().to_owned())));
        assert_eq!(both.seal(APP, place, &"value".into()).key_id, new.key_id());
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        for (text, words) in [
            ("", "holds no key"),
            ("c2VjcmV0", "line 1 is not 32 bytes in base64"),
            ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\nc2VjcmV0", "line 3"),
        ] {
            let error = KeyRing::parse(text).expect_err("refused").to_string();
            assert!(error.contains(SETTING_FILE) && error.contains(words), "{error}");
            assert!(error.contains("openssl rand -base64 32") && !error.contains("c2VjcmV0"), "{error}");
        }
    }

    #[test]
    fn the_keys_are_never_printed() {
        let printed = format!("{:?}", ring(&[NEW, OLD]));
        assert!(!printed.contains(&BASE64.encode(NEW)) && !printed.contains("[2, 2"), "{printed}");
    }

    #[test]
    fn what_was_sealed_once_opens_for_ever() {
        let sealed = Sealed {
            key_id: "45c003071c4e91a2".to_owned(),
            value: "AAECAwQFBgcICQoLapfbvN+IwRRNsXNYq0cWgPWWJYBCzkE=".to_owned(),
        };
        assert_eq!(ring(&[OLD]).open(APP, Place::Variable("KEY"), &sealed), Ok("hunter2".into()));
    }
}
