//! Whether a browser's request comes from our own pages.

use axum::http::{HeaderMap, header};

use crate::config::BaseUrl;

/// Where a request comes from, as far as the browser says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Our own pages.
    Same,
    /// Another site's.
    Other,
    /// Not said: not a browser, or a very old one.
    Unknown,
}

impl Origin {
    /// Reads `Sec-Fetch-Site`, or else compares `Origin` with our address.
    ///
    /// Browsers send the first only over TLS and to the machine itself, and the second with every request that
    /// changes something. A page can forge neither.
    #[must_use]
    pub fn of(headers: &HeaderMap, base_url: &BaseUrl) -> Self {
        let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
        if let Some(site) = text("sec-fetch-site") {
            return if site == "same-origin" { Self::Same } else { Self::Other };
        }
        let Some(origin) = text(header::ORIGIN.as_str()) else { return Self::Unknown };
        let host = origin.split_once("://").map(|(_, host)| host);
        let same = origin == base_url.as_str() || (host.is_some() && host == text(header::HOST.as_str()));
        if same { Self::Same } else { Self::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_are_the_same_origin() {
        let base_url = BaseUrl::try_from("https://a.example".to_owned()).unwrap();
        for (pairs, expected) in [
            (vec![("sec-fetch-site", "same-origin")], Origin::Same),
            (vec![("sec-fetch-site", "same-site"), ("origin", "https://a.example")], Origin::Other),
            (vec![("sec-fetch-site", "cross-site")], Origin::Other),
            (vec![("sec-fetch-site", "none")], Origin::Other),
            (vec![("origin", "https://a.example")], Origin::Same),
            (vec![("origin", "http://10.0.0.1:8081"), ("host", "10.0.0.1:8081")], Origin::Same),
            (vec![("origin", "https://b.example"), ("host", "a.example")], Origin::Other),
            (vec![("origin", "null"), ("host", "null")], Origin::Other),
            (vec![], Origin::Unknown),
        ] {
            let headers: HeaderMap =
                pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(Origin::of(&headers, &base_url), expected, "{pairs:?}");
        }
    }
}
