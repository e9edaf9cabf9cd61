//! Which host name a request is for.

use http::{header, request::Parts};
use std::borrow::Cow;

/// The host that a request names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestedHost<'a> {
    /// As the visitor wrote it, with the port.
    pub(super) authority: &'a str,
    /// In lower case, without port and root dot, as the route table has it.
    pub(super) name: Cow<'a, str>,
}

/// The host that a request is for: the authority of its target where it has one (HTTP/2, absolute form), or else its
/// `Host` header. None if there is not exactly one, or it is not a host.
pub(super) fn requested_host(request: &Parts) -> Option<RequestedHost<'_>> {
    let authority = match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => {
            let mut hosts = request.headers.get_all(header::HOST).iter();
            let host = hosts.next()?.to_str().ok()?;
            if hosts.next().is_some() {
                return None;
            }
            host
        }
    };
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) if !authority.ends_with(']') => return None,
        _ => authority,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let valid = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.bytes().all(is_address),
        None => name.bytes().all(is_name),
    };
    if name.is_empty() || !valid {
        return None;
    }
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    Some(RequestedHost { authority, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn host(uri: &str, hosts: &[&str]) -> Option<String> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        requested_host(&parts).map(|host| host.name.into_owned())
    }

    #[test]
    fn case_port_and_root_dot_do_not_matter() {
        for written in [
            "a.localhost",
            "A.LocalHost",
            "a.localhost:8080",
            "a.localhost.",
            "a.localhost.:80",
            "a.localhost:",
        ] {
            assert_eq!(host("/", &[written]).as_deref(), Some("a.localhost"), "{written}");
        }
        assert_eq!(host("/", &["[::1]:80"]).as_deref(), Some("[::1]"));
        assert_eq!(host("/", &["[::1]"]).as_deref(), Some("[::1]"));
    }

    #[test]
    fn the_target_wins_over_the_header() {
        assert_eq!(host("http://b.localhost/", &["a.localhost"]).as_deref(), Some("b.localhost"));
    }

    #[test]
    fn a_request_for_no_host_or_two_has_none() {
        for hosts in [
            &[][..],
            &["a", "a"],
            &[""],
            &[":80"],
            &["a b"],
            &["a/b"],
            &["a@b"],
            &["a:b"],
            &["a:1:2"],
            &["[x]"],
            &["."],
        ] {
            assert_eq!(host("/", hosts), None, "{hosts:?}");
        }
    }
}
