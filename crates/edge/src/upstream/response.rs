//! The head of a response: read without copying, and stripped of what concerns only the connection that it came on.

use super::body::{Chunk, Decoder};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use std::{mem::MaybeUninit, ops::Range};

/// Most headers in a response.
const HEADERS_MAX: usize = 128;
/// Longest head of a response, so that a place in it is a small number.
const HEAD_BYTES_MAX: usize = u16::MAX as usize;

/// What comes before the body.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The headers that are for the visitor.
    pub headers: HeaderMap,
    /// Where the body ends.
    pub body: Decoder,
    /// Whether the connection can be used again after the body.
    pub keep_alive: bool,
}

/// The instance did not send an HTTP/1 response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the instance sent a malformed response")]
pub struct Malformed;

/// Takes the head of the answer to a `method` request from the buffer, if it is there as a whole. Interim responses
/// (1xx, except a switch of protocols) before it are dropped.
///
/// # Errors
/// The buffer does not begin with a response head.
pub fn take_head(buffer: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, Malformed> {
    loop {
        let mut places = [Place::default(); HEADERS_MAX];
        let Some(raw) = take_raw_head(buffer, &mut places)? else { return Ok(None) };
        if raw.status.is_informational() && raw.status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let mut framing = Framing::new(raw.version);
        let mut headers = HeaderMap::with_capacity(raw.header_count + 1);
        for place in &places[..raw.header_count] {
            let name = HeaderName::from_bytes(&raw.bytes[place.name()]).map_err(|_| Malformed)?;
            let value = raw.bytes.slice(place.value());
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed)?;
            if framing.is_for_visitor(&name, &value)? {
                headers.append(name, value);
            }
        }
        return framing.finish(raw.status, headers, method).map(Some);
    }
}

/// A head as it was received.
struct RawHead {
    status: StatusCode,
    version: Version,
    bytes: Bytes,
    header_count: usize,
}

/// Where a header is in the head: the parser borrows the buffer that the head is cut off, so it cannot stay a slice.
#[derive(Clone, Copy, Default)]
struct Place {
    name: (u16, u16),
    value: (u16, u16),
}

impl Place {
    fn name(self) -> Range<usize> {
        self.name.0.into()..self.name.1.into()
    }

    fn value(self) -> Range<usize> {
        self.value.0.into()..self.value.1.into()
    }
}

/// Cuts one head off the buffer and notes where its headers are.
fn take_raw_head(
    buffer: &mut BytesMut,
    places: &mut [Place; HEADERS_MAX],
) -> Result<Option<RawHead>, Malformed> {
    let base = buffer.as_ptr() as usize;
    let place = |part: &[u8]| {
        let start = part.as_ptr() as usize - base;
        let small = |offset: usize| u16::try_from(offset).map_err(|_| Malformed);
        Ok((small(start)?, small(start + part.len())?))
    };
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, buffer, &mut headers)
        .map_err(|_| Malformed)?;
    let httparse::Status::Complete(len) = parsed else {
        return if buffer.len() > HEAD_BYTES_MAX { Err(Malformed) } else { Ok(None) };
    };
    for (slot, header) in places.iter_mut().zip(response.headers.iter()) {
        *slot = Place { name: place(header.name.as_bytes())?, value: place(header.value)? };
    }
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| Malformed)?;
    let version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let header_count = response.headers.len();
    Ok(Some(RawHead { status, version, bytes: buffer.split_to(len).freeze(), header_count }))
}

/// What the headers say about the connection and the body.
struct Framing {
    version: Version,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    /// The value of `Connection`, if it names more than the usual.
    connection: Option<HeaderValue>,
    upgrade: Option<HeaderValue>,
}

impl Framing {
    fn new(version: Version) -> Self {
        let close = version == Version::HTTP_10;
        Self { version, length: None, chunked: false, close, connection: None, upgrade: None }
    }

    /// Notes what a header says; whether the visitor gets it.
    fn is_for_visitor(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Malformed> {
        match name.as_str() {
            "content-length" => {
                let length = parse_length(value.as_bytes()).ok_or(Malformed)?;
                let first = self.length.replace(length);
                return if first.is_none_or(|first| first == length) {
                    Ok(first.is_none())
                } else {
                    Err(Malformed)
                };
            }
            "transfer-encoding" => {
                if self.chunked
                    || self.version == Version::HTTP_10
                    || !value.as_bytes().eq_ignore_ascii_case(b"chunked")
                {
                    return Err(Malformed);
                }
                self.chunked = true;
            }
            "connection" => {
                self.close |= has_token(value, "close");
                self.connection = Some(value.clone());
            }
            "upgrade" => self.upgrade = Some(value.clone()),
            "keep-alive" | "proxy-connection" | "te" | "trailer" => {}
            _ => return Ok(true),
        }
        Ok(false)
    }

    fn finish(
        self,
        status: StatusCode,
        mut headers: HeaderMap,
        method: &Method,
    ) -> Result<ResponseHead, Malformed> {
        if let Some(connection) = &self.connection {
            remove_named(&mut headers, connection);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, self.upgrade.ok_or(Malformed)?);
        }
        let bodiless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || method == Method::HEAD;
        if self.chunked || status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        let body = match self.length {
            _ if bodiless => Decoder::Done,
            _ if self.chunked => Decoder::Chunked(Chunk::Size),
            Some(0) => Decoder::Done,
            Some(length) => Decoder::Length(length),
            None => Decoder::UntilClose,
        };
        // A head with both is how responses are smuggled; nothing that follows it is to be trusted.
        let ambiguous = self.chunked && self.length.is_some();
        let keep_alive = !self.close && !ambiguous && body != Decoder::UntilClose;
        Ok(ResponseHead { status, headers, body, keep_alive })
    }
}

/// Whether a comma-separated value has this token.
#[must_use]
pub fn has_token(value: &HeaderValue, token: &str) -> bool {
    value
        .as_bytes()
        .split(|&byte| byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Removes the headers that a `Connection` header names as its own.
fn remove_named(headers: &mut HeaderMap, connection: &HeaderValue) {
    for name in connection.as_bytes().split(|&byte| byte == b',') {
        if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
            headers.remove(name);
        }
    }
}

/// A content length: digits only.
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, method: &Method) -> Result<Option<ResponseHead>, Malformed> {
        take_head(&mut BytesMut::from(text), method)
    }

    fn get(text: &str) -> ResponseHead {
        head(text, &Method::GET).expect("a response").expect("a whole one")
    }

    #[test]
    fn the_body_ends_where_the_rules_say() {
        for (text, body, keep_alive) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Decoder::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", Decoder::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Decoder::Done, true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Decoder::Chunked(Chunk::Size), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Decoder::UntilClose, false),
            ("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", Decoder::Done, true),
            ("HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n", Decoder::Done, true),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Decoder::Length(5), false),
            ("HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 5\r\n\r\n", Decoder::Length(5), false),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                Decoder::Chunked(Chunk::Size),
                false,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\n",
                Decoder::Length(1),
                true,
            ),
        ] {
            let head = get(text);
            assert_eq!((head.body, head.keep_alive), (body, keep_alive), "{text}");
        }
        let answer_to_head = head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &Method::HEAD);
        let answer_to_head = answer_to_head.expect("a response").expect("a whole one");
        assert_eq!(answer_to_head.body, Decoder::Done);
        assert_eq!(answer_to_head.headers[header::CONTENT_LENGTH], "5");
    }

    #[test]
    fn headers_of_the_connection_are_not_the_visitors() {
        let head = get(concat!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close, X-Own\r\nX-Own: 1\r\n",
            "Keep-Alive: timeout=5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nUpgrade: h2c\r\n\r\n",
        ));
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "set-cookie"]);
        assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn an_upgrade_keeps_what_it_needs() {
        let head = get(
            "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
        );
        assert_eq!(head.headers["upgrade"], "websocket");
        assert_eq!(head.headers["connection"], "upgrade");
        assert!(head.headers.contains_key("sec-websocket-accept"));
    }

    #[test]
    fn half_a_head_waits_and_a_wrong_one_is_refused() {
        assert!(
            head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n", &Method::GET).expect("so far so good").is_none()
        );
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Go\r\n\r\n",
        ] {
            assert!(head(text, &Method::GET).is_err(), "{text}");
        }
    }
}
