//! The HTTP client for calls between the platform's own programs.
//!
//! It follows no redirect, uses no proxy from the environment and gives up in time, so that a key is sent only to the
//! host that the configuration names.

use reqwest::{Client, redirect::Policy};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client with these rules; certificates are checked against the host's authorities.
///
/// # Errors
/// The TLS library cannot be set up.
pub fn client() -> reqwest::Result<Client> {
    crate::tls::install_provider();
    Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .build()
}
