//! The login of an app's private repository: given once, sealed, never shown again.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use wisehosting_domain::{
    id::AppId,
    login::{Username, check_password},
    secret::Secret,
    source::Repository,
};
use wisehosting_store::apps::RepositoryLogin;

use crate::{
    error::Problem,
    sealing::{KeyRing, Place},
};

/// A login for a private repository. It is sent to the host of the app's repository only, and over TLS.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLogin {
    /// Who asks; `x-access-token` if absent, which GitHub expects beside a token and other hosts take.
    #[serde(default)]
    #[schema(value_type = String, example = "x-access-token")]
    username: Username,
    /// A token that may read this repository, or a password.
    #[schema(value_type = String, format = Password, write_only)]
    password: Secret,
}

/// That there is a login for the app's repository.
#[derive(Debug, Serialize, ToSchema)]
pub struct Login {
    /// Who asks.
    #[schema(example = "x-access-token")]
    pub username: String,
    /// When it was set.
    #[serde(with = "time::serde::rfc3339")]
    pub set_at: OffsetDateTime,
}

impl From<RepositoryLogin> for Login {
    fn from(login: RepositoryLogin) -> Self {
        Self { username: login.username.into(), set_at: login.set_at }
    }
}

impl SetLogin {
    /// Seals it for the host of this repository of this app.
    pub(super) fn seal(
        self,
        app: AppId,
        repository: &Repository,
        keys: &KeyRing,
        allow_clear: bool,
        now: OffsetDateTime,
    ) -> Result<RepositoryLogin, Problem> {
        let origin = repository.origin().filter(|_| allow_clear || repository.is_https());
        let origin = origin.ok_or_else(|| {
            let message = "login: it is sent over TLS only: give the repository an https:// address";
            Problem::invalid("login", message)
        })?;
        check_password(&self.password).map_err(|error| {
            let field = "login.password";
            Problem::invalid(field, format!("{field}: {error}"))
        })?;
        let password = keys.seal(app, Place::Login(origin), &self.password);
        Ok(RepositoryLogin { origin: origin.to_owned(), username: self.username, password, set_at: now })
    }
}
