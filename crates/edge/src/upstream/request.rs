//! The head of a request: written from the visitor's, without what concerns only the visitor's connection, and with
//! what the edge vouches for.

use super::response::has_token;
use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Version, header, request::Parts};

/// How the visitor came, which only the edge knows: a visitor's own claims about it are dropped.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The host name and port that the visitor asked for.
    pub host: &'a str,
    /// The visitor's address.
    pub peer: &'a HeaderValue,
    /// `http` or `https`.
    pub scheme: &'static str,
}

/// How the instance is told where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// By its length.
    Length(u64),
    /// By chunks.
    Chunked,
}

/// Whether a request asks for another protocol that can be passed through. HTTP/2 in clear cannot: it would carry
/// requests for other host names past the routes.
#[must_use]
pub fn wants_upgrade(request: &Parts) -> bool {
    let Some(protocol) = request.headers.get(header::UPGRADE) else { return false };
    request.version == Version::HTTP_11
        && !has_token(protocol, "h2c")
        && request.headers.get_all(header::CONNECTION).iter().any(|value| has_token(value, "upgrade"))
}

/// Writes the head.
pub fn write_head(
    out: &mut BytesMut,
    request: &Parts,
    forwarded: Forwarded<'_>,
    framing: Framing,
    upgrade: bool,
) {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    out.reserve(512 + target.len());
    for part in [request.method.as_str(), " ", target, " HTTP/1.1\r\nhost: ", forwarded.host, "\r\n"] {
        out.put_slice(part.as_bytes());
    }
    for (name, value) in &request.headers {
        if is_for_instance(name, request) {
            let joined = *name == header::COOKIE && request.version == Version::HTTP_2;
            if !joined {
                write_header(out, name.as_str(), value.as_bytes());
            }
        }
    }
    if request.version == Version::HTTP_2 {
        write_cookies(out, request);
    }
    for (name, value) in forwarded_headers(forwarded) {
        write_header(out, name, value);
    }
    match framing {
        Framing::None => {}
        Framing::Length(length) => write_header(out, "content-length", length.to_string().as_bytes()),
        Framing::Chunked => write_header(out, "transfer-encoding", b"chunked"),
    }
    if upgrade && let Some(protocol) = request.headers.get(header::UPGRADE) {
        write_header(out, "connection", b"upgrade");
        write_header(out, "upgrade", protocol.as_bytes());
    }
    out.put_slice(b"\r\n");
}

/// What the edge says of how the visitor came.
pub(super) fn forwarded_headers(forwarded: Forwarded<'_>) -> [(&'static str, &[u8]); 3] {
    [
        ("x-forwarded-for", forwarded.peer.as_bytes()),
        ("x-forwarded-host", forwarded.host.as_bytes()),
        ("x-forwarded-proto", forwarded.scheme.as_bytes()),
    ]
}

/// Whether a header of a request is passed on.
pub(super) fn is_for_instance(name: &HeaderName, request: &Parts) -> bool {
    let mut connection = request.headers.get_all(header::CONNECTION).iter();
    !is_of_the_connection(name) && !connection.any(|own| has_token(own, name.as_str()))
}

fn write_header(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// HTTP/2 may cut the cookies into several headers; HTTP/1 knows one (RFC 9113, section 8.2.3).
fn write_cookies(out: &mut BytesMut, request: &Parts) {
    let cookies: Vec<_> = request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !cookies.is_empty() {
        write_header(out, "cookie", &cookies.join(&b"; "[..]));
    }
}

/// Headers that end at the edge: they are about the visitor's connection, or the edge writes them itself. Many programs
/// take an underscore for a hyphen (CGI cannot tell them apart), so neither spelling comes through.
fn is_of_the_connection(name: &HeaderName) -> bool {
    let name = name.as_str();
    ends_at_the_edge(name) || (name.contains('_') && ends_at_the_edge(&name.replace('_', "-")))
}

fn ends_at_the_edge(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-length"
            | "expect"
            | "forwarded"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-forwarded-server"
            | "x-real-ip"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn written(request: http::request::Builder, framing: Framing) -> String {
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let forwarded = Forwarded {
            host: "a.localhost:8080",
            peer: &HeaderValue::from_static("192.0.2.7"),
            scheme: "https",
        };
        let mut out = BytesMut::new();
        write_head(&mut out, &parts, forwarded, framing, wants_upgrade(&parts));
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn a_visitor_cannot_say_how_it_came() {
        let request = Request::get("/x?y=z")
            .header("host", "other")
            .header("x-forwarded-for", "10.0.0.1")
            .header("forwarded", "for=10.0.0.1")
            .header("x-real-ip", "10.0.0.1")
            .header("x_forwarded_for", "10.0.0.1")
            .header("connection", "keep-alive, x-own")
            .header("x-own", "1")
            .header("te", "trailers")
            .header("accept", "*/*");
        let expected = concat!(
            "GET /x?y=z HTTP/1.1\r\nhost: a.localhost:8080\r\naccept: */*\r\nx-forwarded-for: 192.0.2.7\r\n",
            "x-forwarded-host: a.localhost:8080\r\nx-forwarded-proto: https\r\n\r\n",
        );
        assert_eq!(written(request, Framing::None), expected);
    }

    #[test]
    fn there_is_one_framing_and_it_is_ours() {
        let request =
            || Request::post("/").header("content-length", "3").header("transfer-encoding", "chunked");
        assert!(written(request(), Framing::Length(3)).ends_with("\r\ncontent-length: 3\r\n\r\n"));
        let chunked = written(request(), Framing::Chunked);
        assert!(chunked.ends_with("\r\ntransfer-encoding: chunked\r\n\r\n") && !chunked.contains("length"));
    }

    #[test]
    fn cookies_of_http_2_become_one() {
        let request = || Request::get("/").header("cookie", "a=1").header("cookie", "b=2");
        let joined = written(request().version(Version::HTTP_2), Framing::None);
        assert_eq!(joined.matches("cookie: ").count(), 1);
        assert!(joined.contains("\r\ncookie: a=1; b=2\r\n"));
    }

    #[test]
    fn an_upgrade_passes_unless_it_is_to_http_2() {
        let request =
            |protocol| Request::get("/").header("connection", "Upgrade").header("upgrade", protocol);
        assert!(
            written(request("websocket"), Framing::None)
                .contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n")
        );
        assert!(!written(request("h2c"), Framing::None).contains("upgrade"));
        assert!(
            !written(Request::get("/").header("upgrade", "websocket"), Framing::None).contains("upgrade")
        );
    }
}
