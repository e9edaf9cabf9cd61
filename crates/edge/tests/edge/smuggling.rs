//! Requests that two programs may read differently, as bytes. What is ambiguous is refused; what is passed on was
//! written anew by the edge, so that the instance sees the requests that the edge saw, and no other.

use crate::surroundings::{Edge, Instance, table};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::sync::{Arc, Mutex};

/// An edge with one instance behind it, and the requests that the instance saw whole: method, target, body.
struct Witness {
    edge: Edge,
    _instance: Instance,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    async fn start() -> Self {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = seen.clone();
        let instance = Instance::http(move |request: Request<Incoming>| {
            let notes = notes.clone();
            async move {
                let (parts, body) = request.into_parts();
                // A body that breaks off is the edge's way to say that the request is not to be answered.
                if let Ok(body) = body.collect().await {
                    let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
                    notes.lock().unwrap().push(format!("{} {} {body}", parts.method, parts.uri));
                }
                Response::new(Full::default())
            }
        })
        .await;
        let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
        Self { edge, _instance: instance, seen }
    }

    /// Sends bytes on one connection; returns the statuses that came back and what the instance saw.
    async fn sees(&self, bytes: &str) -> (String, Vec<String>) {
        let response = self.edge.exchange(bytes).await;
        let statuses: Vec<_> = response.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]).collect();
        (statuses.join(" "), std::mem::take(&mut self.seen.lock().unwrap()))
    }
}

/// A second request, hidden where a body may be.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a.localhost\r\n\r\n";

/// A POST with these headers and this body, and a last request behind it.
fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /seen HTTP/1.1\r\nHost: a.localhost\r\n{headers}\r\n\r\n{body}\
         GET /end HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n"
    )
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn a_head_with_two_readings_is_refused() {
    let witness = Witness::start().await;
    for headers in [
        "Content-Length: 0\r\nContent-Length: 43",
        "Content-Length: 0, 43",
        "Content-Length: 43, 43",
        "Content-Length: +43",
        "Content-Length: -43",
        "Content-Length: 0x2b",
        "Content-Length: 99999999999999999999",
        "Content-Length : 43",
        " Content-Length: 43",
        "X: y\r\n Content-Length: 43",
        "X: y\rContent-Length: 43",
        "X: y\0",
        ": y",
        "X\u{e9}: y",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Host: a.localhost",
        "Host : a.localhost",
    ] {
        let (statuses, seen) = witness.sees(&post(headers, HIDDEN)).await;
        let first = statuses.split(' ').next();
        assert!(first == Some("400") && !seen.concat().contains("/seen"), "{headers:?}: {statuses} {seen:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_made_of_chunks_ends_the_connection() {
    let witness = Witness::start().await;
    for body in [
        "0x0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1;a=\n\r\nx\r\n0\r\n\r\n",
        "10000000000000000\r\nx\r\n0\r\n\r\n",
    ] {
        let request = post("Transfer-Encoding: chunked", &format!("{body}{HIDDEN}"));
        assert_eq!(witness.sees(&request).await, ("400".to_owned(), vec![]), "{body:?}");
    }
}

#[tokio::test]
async fn what_has_one_reading_arrives_as_the_edge_read_it() {
    let witness = Witness::start().await;
    let (hidden, chunked) = (format!("POST /seen {HIDDEN}"), format!("2b\r\n{HIDDEN}\r\n0\r\n\r\n"));
    let empty = format!("0\r\n\r\n{HIDDEN}");
    let trailers = "0\r\nHost: b.localhost\r\nContent-Length: 5\r\n\r\n";
    for (headers, body, statuses, seen) in [
        ("Content-Length: 43", HIDDEN, "200 200", &[&*hidden, "GET /end "][..]),
        ("Content-Length: 43\r\nContent-Length: 43", HIDDEN, "200 200", &[&*hidden, "GET /end "]),
        ("Content-Length:\t43\t", HIDDEN, "200 200", &[&*hidden, "GET /end "]),
        ("transfer-encoding: CHUNKED", &*chunked, "200 200", &[&*hidden, "GET /end "]),
        ("Transfer-Encoding: chunked", trailers, "200 200", &["POST /seen ", "GET /end "]),
        // Chunks win over a length (RFC 9112, section 6.3), and nothing after them is believed.
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", &*empty, "200", &["POST /seen "]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 48", &*empty, "200", &["POST /seen "]),
        // No header of the edge's, but perhaps of an instance that takes an underscore for a hyphen.
        ("Content_Length: 43", HIDDEN, "200 200 200", &["POST /seen ", "GET /hidden ", "GET /end "]),
    ] {
        let actual = witness.sees(&post(headers, body)).await;
        assert_eq!(
            (&*actual.0, &*actual.1),
            (statuses, &*seen.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()),
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_target_is_a_path_or_a_whole_address() {
    let witness = Witness::start().await;
    for target in
        ["*", "a.localhost:80", "ftp://a.localhost/", "http://u:p@a.localhost/", "/x y", " /x", "/`"]
    {
        assert_eq!(witness.sees(&get(target)).await, ("400".to_owned(), vec![]), "{target:?}");
    }
    for (target, passed) in [
        ("http://A.localhost/x", "/x"),
        ("//b.localhost/x", "//b.localhost/x"),
        ("/a/../b;/..;/%2e%2e%2f%00?/../#c", "/a/../b;/..;/%2e%2e%2f%00?/../"),
    ] {
        let seen = vec![format!("GET {passed} ")];
        assert_eq!(witness.sees(&get(target)).await, ("200".to_owned(), seen), "{target:?}");
    }
    let other = "GET http://a.localhost/x HTTP/1.1\r\nHost: b.localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(witness.sees(other).await, ("200".to_owned(), vec!["GET /x ".to_owned()]));
    let options = "OPTIONS * HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(witness.sees(options).await, ("200".to_owned(), vec!["OPTIONS * ".to_owned()]));
    for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/1.1 ", ""] {
        let request = format!("GET /x {version}\r\nHost: a.localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(witness.sees(&request).await, ("400".to_owned(), vec![]), "{version:?}");
    }
}

#[tokio::test]
async fn a_host_is_one_name_or_leads_nowhere() {
    let witness = Witness::start().await;
    let long = format!("{}.a.localhost", "x".repeat(254));
    for host in [
        "a.localhost`) || Host(`b.localhost",
        "a.localhost)",
        "a.localhost||b.localhost",
        "*.localhost",
        "*",
        "a.localhost/b",
        "a.localhost#",
        "b@a.localhost",
        "a.localhost, b.localhost",
        "a.localhost..",
        ".a.localhost",
        "127.0.0.1",
        "xn--a-ecp.localhost",
        "\u{e4}.localhost",
        "a%2elocalhost",
        "localhost",
        &long,
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (statuses, seen) = witness.sees(&request).await;
        assert!(matches!(&*statuses, "400" | "404") && seen.is_empty(), "{host}: {statuses} {seen:?}");
    }
    for host in ["A.LOCALHOST", "a.localhost.", "a.localhost:443"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(witness.sees(&request).await, ("200".to_owned(), vec!["GET / ".to_owned()]), "{host}");
    }
}

#[tokio::test]
async fn nothing_takes_away_or_replaces_what_the_edge_says_of_the_visitor() {
    let mirror = Instance::mirror().await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&mirror.upstream])]));
    for headers in [
        "X-Forwarded-For: 10.0.0.1",
        "X_Forwarded_For: 10.0.0.1",
        "x-forwarded_for: 10.0.0.1",
        "Forwarded: for=10.0.0.1",
        "X-Real-IP: 10.0.0.1",
        "Connection: X-Forwarded-For",
        "Connection: close, X-Forwarded-For, X-Forwarded-Proto, Host",
        "X-Forwarded-For: 10.0.0.1\r\nConnection: x-forwarded-for",
        "X-Forwarded-Host: b.localhost\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443",
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: a.localhost\r\n{headers}\r\nConnection: close\r\n\r\n");
        let seen = edge.exchange(&request).await;
        let (_, seen) = seen.split_once("GET /\n").unwrap();
        let expected = "host: a.localhost\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: a.localhost\nx-forwarded-proto: http\n\n";
        assert_eq!(seen, expected, "{headers}");
    }
    let large = format!("GET / HTTP/1.1\r\nHost: a.localhost\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    assert!(edge.exchange(&large).await.starts_with("HTTP/1.1 431 "));
}
