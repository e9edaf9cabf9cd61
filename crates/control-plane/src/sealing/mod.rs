//! Secrets of users and keys of certificates at rest: sealed when they come in, opened when a worker or an edge is given
//! them, and nowhere else.
//!
//! A sealed value opens only with the key that sealed it, and only in the place that it was sealed for: of that app, under
//! that name, for that purpose. So who can write to the database can neither read a value nor give it to another app.

mod key_ring;
mod reseal;

use std::{collections::BTreeMap, fmt};

use wisehosting_domain::{
    id::AppId,
    login::Login,
    name::Label,
    secret::{Sealed, Secret},
    source::Repository,
};
use wisehosting_store::apps::RepositoryLogin;

pub use key_ring::{KeyRing, OpenError, secret_len};
pub use reseal::reseal;

/// What a value is and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// The value of this variable in the app's environment.
    Variable(&'a str),
    /// The password with which the app's repository is fetched from this origin.
    Login(&'a str),
    /// The key of the certificate for this host name, which no app has.
    CertificateKey(&'a str),
}

impl Place<'_> {
    /// Each purpose has keys of its own.
    fn purpose(self) -> &'static str {
        match self {
            Self::Variable(_) => "environment",
            Self::Login(_) => "repository login",
            Self::CertificateKey(_) => "certificate key",
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Variable(name) | Self::Login(name) | Self::CertificateKey(name) => name,
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Login(origin) => write!(f, "the login for {origin}"),
            Self::CertificateKey(host) => write!(f, "the key of the certificate for {host}"),
        }
    }
}

/// A secret of an app that its deployment needs cannot be opened. Shown to the app's owner.
#[derive(Debug, thiserror::Error)]
#[error(
    "{app}: {place} cannot be read: {source}. Set it again, or ask the operator for the key that the platform had."
)]
pub struct Unreadable {
    app: Label,
    place: String,
    source: OpenError,
}

impl Unreadable {
    fn new(app: &Label, place: Place<'_>, source: OpenError) -> Self {
        Self { app: app.clone(), place: place.to_string(), source }
    }
}

/// Opens the login of an app for this repository; none if the one that there is was given for another host.
///
/// # Errors
/// Names the app and the host.
pub fn open_login(
    keys: &KeyRing,
    (id, app): &(AppId, Label),
    repository: &Repository,
    login: Option<&RepositoryLogin>,
) -> Result<Option<Login>, Unreadable> {
    let Some(login) = login.filter(|login| repository.origin() == Some(&login.origin)) else {
        return Ok(None);
    };
    let place = Place::Login(&login.origin);
    let password =
        keys.open(*id, place, &login.password).map_err(|error| Unreadable::new(app, place, error))?;
    Ok(Some(Login { username: login.username.clone(), password }))
}

/// Opens an app's environment.
///
/// # Errors
/// Names the app and the variable.
pub fn open_environment(
    keys: &KeyRing,
    (id, app): &(AppId, Label),
    environment: &BTreeMap<String, Sealed>,
) -> Result<BTreeMap<String, Secret>, Unreadable> {
    let open = |(name, value): (&String, &Sealed)| {
        let place = Place::Variable(name);
        let value = keys.open(*id, place, value).map_err(|error| Unreadable::new(app, place, error))?;
        Ok((name.clone(), value))
    };
    environment.iter().map(open).collect()
}
