//! Where the visitors of an app find it.

use wisehosting_domain::name::Label;

use crate::config::AppsConfig;

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// The addresses of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls {
    /// Without TLS.
    pub http: String,
    /// With TLS.
    pub https: String,
    /// Whether a browser trusts the certificate: no authority signs one for a name below `localhost`.
    pub trusted: bool,
}

/// The addresses of the app `name`.
#[must_use]
pub fn urls(name: &Label, config: &AppsConfig) -> Urls {
    let domain = config.domain.as_str();
    let port = |port: u16, default: u16| if port == default { String::new() } else { format!(":{port}") };
    Urls {
        http: format!("http://{name}.{domain}{}", port(config.public_http_port, HTTP_PORT)),
        https: format!("https://{name}.{domain}{}", port(config.public_https_port, HTTPS_PORT)),
        trusted: domain != "localhost" && !domain.ends_with(".localhost"),
    }
}

impl Urls {
    /// The one to give to people.
    #[must_use]
    pub fn primary(&self) -> &str {
        if self.trusted { &self.https } else { &self.http }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(domain: &str, http: u16, https: u16) -> Urls {
        let domain = domain.parse().unwrap();
        let config =
            AppsConfig { domain, public_http_port: http, public_https_port: https, ..AppsConfig::default() };
        urls(&"hello".parse().unwrap(), &config)
    }

    #[test]
    fn usual_ports_are_left_out() {
        let urls = of("apps.example.org", 80, 443);
        assert_eq!(urls.primary(), "https://hello.apps.example.org");
        assert_eq!(urls.http, "http://hello.apps.example.org");
    }

    #[test]
    fn below_localhost_no_certificate_is_trusted() {
        let urls = of("localhost", 8080, 8443);
        assert_eq!(urls.primary(), "http://hello.localhost:8080");
        assert_eq!(urls.https, "https://hello.localhost:8443");
    }
}
