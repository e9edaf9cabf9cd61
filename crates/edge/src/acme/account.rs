//! The account at the certificate authority: made when it is first needed, kept in a file for its owner only.

use super::config::AcmeConfig;
use instant_acme::{Account as Opened, AccountBuilder, AccountCredentials, NewAccount};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, ErrorKind},
    path::PathBuf,
};
use tokio::sync::OnceCell;
use wisehosting_node::private_file;

/// Its name beside the pairs.
pub(super) const FILE: &str = "account.json";

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    #[error("cannot use {}: remove it to get a new account", .0.display())]
    File(PathBuf, #[source] io::Error),
    #[error("the certificate authority gives no account")]
    Refused(#[from] instant_acme::Error),
}

/// The file. An account of another authority is of no use.
#[derive(Serialize, Deserialize)]
struct Saved {
    directory: String,
    credentials: AccountCredentials,
}

pub(super) struct Account {
    pub(super) config: AcmeConfig,
    file: PathBuf,
    opened: OnceCell<Opened>,
}

impl Account {
    pub(super) fn new(config: AcmeConfig, file: PathBuf) -> Self {
        Self { config, file, opened: OnceCell::new() }
    }

    /// The account, opened once.
    pub(super) async fn open(&self) -> Result<&Opened, AccountError> {
        self.opened.get_or_try_init(|| self.load_or_create()).await
    }

    async fn load_or_create(&self) -> Result<Opened, AccountError> {
        let failure = |error| AccountError::File(self.file.clone(), error);
        match self.load().map_err(failure)? {
            Some(saved) if saved.directory == self.config.directory => {
                Ok(self.builder()?.from_credentials(saved.credentials).await?)
            }
            _ => {
                let (account, credentials) = self.create().await?;
                let saved = Saved { directory: self.config.directory.clone(), credentials };
                let bytes = serde_json::to_vec(&saved).map_err(io::Error::from).map_err(failure)?;
                private_file::write(&self.file, &bytes).map_err(failure)?;
                Ok(account)
            }
        }
    }

    fn load(&self) -> io::Result<Option<Saved>> {
        match fs::read(&self.file) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn builder(&self) -> Result<AccountBuilder, instant_acme::Error> {
        match &self.config.root_certificate {
            Some(file) => Opened::builder_with_root(file),
            None => Opened::builder(),
        }
    }

    async fn create(&self) -> Result<(Opened, AccountCredentials), instant_acme::Error> {
        let contact = self.config.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        let account = NewAccount {
            contact: &contact,
            terms_of_service_agreed: self.config.terms_agreed,
            only_return_existing: false,
        };
        self.builder()?.create(&account, self.config.directory.clone(), None).await
    }
}
