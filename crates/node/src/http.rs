//! The HTTP client for calls between the platform's own programs.
//!
//! It follows no redirect, uses no proxy from the environment, speaks TLS 1.3 only and gives up in time, so that a key is
//! sent only to the host that the configuration names.

use reqwest::{Client, ClientBuilder, redirect::Policy, tls::Version};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client with these rules; certificates are checked against the host's authorities.
///
/// # Errors
/// The TLS library cannot be set up.
pub fn client() -> reqwest::Result<Client> {
    builder().build()
}

/// These rules, without authorities yet.
pub(crate) fn builder() -> ClientBuilder {
    crate::tls::install_provider();
    Client::builder()
        .tls_version_min(Version::TLS_1_3)
        .http1_only()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
}
