//! Visitors' requests through a running ingress to instances on loopback.

use crate::surroundings::{Authority, Edge, Instance, certificates_in, http2, parse, table, within};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
};
use tokio_tungstenite::tungstenite::Message;
use wisehosting_edge::ingress::{Balancers, Doors, Limits};

#[tokio::test]
async fn the_host_decides_and_everything_else_is_passed_on() {
    let mirror = Instance::mirror().await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&mirror.upstream])]));
    let response = edge
        .exchange(concat!(
            "POST /x?y=z HTTP/1.1\r\nHost: A.localhost:8080\r\nX-Forwarded-For: 10.0.0.1\r\nAccept: */*\r\n",
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ))
        .await;
    let (status, seen) = parse(&response);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        seen,
        concat!(
            "POST /x?y=z\nhost: A.localhost:8080\naccept: */*\nx-forwarded-for: 127.0.0.1\n",
            "x-forwarded-host: A.localhost:8080\nx-forwarded-proto: http\ntransfer-encoding: chunked\n\nhello",
        )
    );
}

#[tokio::test]
async fn bad_hosts_get_a_page() {
    let instance = Instance::named("a").await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    for (hosts, status) in [
        ("Host: b.localhost\r\n", StatusCode::NOT_FOUND),
        ("Host: a.localhost.evil.example\r\n", StatusCode::NOT_FOUND),
        ("", StatusCode::BAD_REQUEST),
        ("Host: a.localhost\r\nHost: b.localhost\r\n", StatusCode::BAD_REQUEST),
        ("Host: a.localhost:80:80\r\n", StatusCode::BAD_REQUEST),
    ] {
        let response = edge.exchange(&format!("GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        let (actual, body) = parse(&response);
        assert_eq!(actual, status, "{hosts}");
        assert!(body.contains("<title>"), "{body}");
    }
    let response = edge
        .exchange("CONNECT a.localhost:80 HTTP/1.1\r\nHost: a.localhost:80\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(parse(&response).0, StatusCode::BAD_REQUEST);
    let head = format!("GET / HTTP/1.1\r\nHost: a.localhost\r\n{}\r\n", "X: x\r\n".repeat(200));
    assert_eq!(parse(&edge.exchange(&head).await).0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(Edge::start(table(0, &[])).get("a.localhost").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_answer_to_head_says_how_long_the_body_would_be() {
    let instance = Instance::named("twelve bytes").await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    let response = edge.exchange("HEAD / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n").await;
    assert!(response.contains("\r\ncontent-length: 12\r\n") && response.ends_with("\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn requests_share_a_connection_to_their_instance() {
    let instance = Instance::named("a").await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    for _ in 0..100 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n").await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\na") {
            assert_ne!(within(stream.read_buf(&mut response)).await.unwrap(), 0);
        }
    }
    assert_eq!(instance.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn large_bodies_pass_both_ways_in_both_framings() {
    let mirror = Instance::http(|request: Request<hyper::body::Incoming>| async move {
        Response::new(Full::new(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&mirror.upstream])]));
    let body = "0123456789abcdef".repeat(256 * 1024);
    let head = |framing: &str| {
        format!("PUT / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n{framing}\r\n\r\n")
    };
    let whole = head(&format!("Content-Length: {}", body.len())) + &body;
    let (status, returned) = parse(&edge.exchange(&whole).await);
    assert!(status == StatusCode::OK && returned == body);
    let chunked = head("Transfer-Encoding: chunked") + &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let (status, returned) = parse(&edge.exchange(&chunked).await);
    assert!(status == StatusCode::OK && returned == body);
}

#[tokio::test]
async fn a_response_until_the_end_of_the_connection_arrives_whole() {
    let instance = Instance::raw(|mut stream| async move {
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nold ").await.unwrap();
        stream.write_all(b"school").await.unwrap();
    })
    .await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    let response = edge.exchange("GET / HTTP/1.0\r\nHost: a.localhost\r\n\r\n").await;
    assert!(response.contains("x-a: 1\r\n") && response.ends_with("\r\n\r\nold school"), "{response}");
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_passed_over() {
    let alive = Instance::named("alive").await;
    let dead = Instance::named("dead").await.upstream.clone();
    let edge =
        Edge::start(table(1, &[("a.localhost", &[&dead, &alive.upstream]), ("b.localhost", &[&dead])]));
    for _ in 0..4 {
        assert_eq!(edge.get("a.localhost").await, (StatusCode::OK, "alive".to_owned()));
    }
    assert_eq!(edge.get("b.localhost").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_connection_that_the_instance_closed_costs_no_request() {
    let instance = Instance::raw(|mut stream| async move {
        // Promises to stay, and leaves after its answer.
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    for _ in 0..50 {
        assert_eq!(edge.get("a.localhost").await, (StatusCode::OK, "ok".to_owned()));
    }
}

#[tokio::test]
async fn a_request_is_sent_again_only_if_that_is_safe() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let instance = Instance::raw(move |mut stream| {
        let count = count.clone();
        async move {
            // Answers the first request of a connection, and breaks off at the second.
            stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            if stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap_or(0) > 0 {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    let get = "GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n";
    let last_get = "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n";
    let twice = edge.exchange(&format!("{get}{last_get}")).await;
    assert_eq!(twice.matches("200 OK").count(), 2, "{twice}");
    assert_eq!(requests.load(Ordering::SeqCst), 1, "it broke off once");
    let post = "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let not_twice = edge.exchange(&format!("{get}{post}")).await;
    assert!(not_twice.contains("200 OK") && not_twice.contains("502 Bad Gateway"), "{not_twice}");
}

#[tokio::test]
async fn what_is_not_http_becomes_a_bad_gateway() {
    for answer in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", ""] {
        let instance = Instance::raw(move |mut stream| async move {
            stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
        assert_eq!(edge.get("a.localhost").await.0, StatusCode::BAD_GATEWAY, "{answer:?}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_a_whole_one() {
    let instance = Instance::raw(|mut stream| async move {
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await
            .unwrap();
    })
    .await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    let response = edge.exchange("GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n").await;
    assert!(!response.ends_with("0\r\n\r\n"), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_change_under_load_without_a_failed_request() {
    let instances = [Instance::named("one").await, Instance::named("two").await];
    let routed = |generation: u64| {
        table(generation, &[("a.localhost", &[&instances[generation as usize % 2].upstream])])
    };
    let edge = Arc::new(Edge::start(routed(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let visitors: Vec<_> = (0..8)
        .map(|_| {
            let (edge, stop) = (edge.clone(), stop.clone());
            tokio::spawn(async move {
                let mut requests = 0;
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(edge.get("a.localhost").await.0, StatusCode::OK);
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    let mut oldest = edge.generations.oldest();
    for generation in 1..=200 {
        edge.install(routed(generation)).await;
        let expected = ["one", "two"][generation as usize % 2];
        assert_eq!(edge.get("a.localhost").await.1, expected, "a new request sees the new table");
        within(oldest.wait_for(|oldest| *oldest == generation)).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let mut requests = 0;
    for visitor in visitors {
        requests += visitor.await.unwrap();
    }
    assert!(requests > 100, "{requests}");
}

#[tokio::test]
async fn a_table_is_drained_when_its_last_body_was_sent() {
    let finish = Arc::new(Notify::new());
    let finished = finish.clone();
    let instance = Instance::raw(move |mut stream| {
        let finished = finished.clone();
        async move {
            stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
            finished.notified().await;
            stream.write_all(b" full").await.unwrap();
        }
    })
    .await;
    let edge = Edge::start(table(5, &[("a.localhost", &[&instance.upstream])]));
    let mut oldest = edge.generations.oldest();
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"half") {
        assert_ne!(within(stream.read_buf(&mut response)).await.unwrap(), 0);
    }
    edge.install(table(6, &[])).await;
    assert_eq!(edge.get("a.localhost").await.0, StatusCode::NOT_FOUND);
    assert_eq!(*oldest.borrow_and_update(), 5, "a body is still on its way");
    finish.notify_one();
    within(oldest.wait_for(|oldest| *oldest == 6)).await.unwrap();
    within(stream.read_to_end(&mut response)).await.unwrap();
    assert!(response.ends_with(b"half full"));
}

/// A WebSocket server that sends back what it gets.
async fn echo() -> Instance {
    Instance::raw(|stream| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                break;
            }
        }
    })
    .await
}

async fn talk<S>(stream: S, url: &str)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut socket, _) = within(tokio_tungstenite::client_async(url, stream)).await.unwrap();
    for text in ["hello", &"x".repeat(100_000)] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::text(text));
    }
    socket.close(None).await.unwrap();
    while within(socket.next()).await.is_some() {}
}

#[tokio::test]
async fn a_websocket_passes_in_clear_and_over_tls_and_holds_its_table() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_pair(directory.path(), "apps", &["*.apps.localhost"]);
    let certificates = certificates_in(directory.path());
    let instance = echo().await;
    let edge =
        Edge::start_with_tls(table(1, &[("a.apps.localhost", &[&instance.upstream])]), Some(&certificates));
    talk(TcpStream::connect(edge.http).await.unwrap(), "ws://a.apps.localhost/").await;
    let tls = authority.connect(edge.https.unwrap(), "a.apps.localhost", b"http/1.1").await.unwrap();
    talk(tls, "wss://a.apps.localhost/").await;

    let stream = TcpStream::connect(edge.http).await.unwrap();
    let (socket, _) =
        within(tokio_tungstenite::client_async("ws://a.apps.localhost/", stream)).await.unwrap();
    edge.install(table(2, &[])).await;
    let mut oldest = edge.generations.oldest();
    assert_eq!(*oldest.borrow_and_update(), 1, "the WebSocket began on it");
    drop(socket);
    within(oldest.wait_for(|oldest| *oldest == 2)).await.unwrap();
}

async fn get_over_http2(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    uri: &str,
) -> (StatusCode, String) {
    let request = Request::get(uri).version(Version::HTTP_2).body(Full::default()).unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    let status = response.status();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn http_2_is_served_in_clear_and_over_tls() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_pair(directory.path(), "apps", &["*.apps.localhost"]);
    let certificates = certificates_in(directory.path());
    let mirror = Instance::mirror().await;
    let edge =
        Edge::start_with_tls(table(1, &[("a.apps.localhost", &[&mirror.upstream])]), Some(&certificates));
    let tls = authority.connect(edge.https.unwrap(), "a.apps.localhost", b"h2").await.unwrap();
    for (stream, scheme) in [
        (Box::new(tls) as Box<dyn Stream>, "https"),
        (Box::new(TcpStream::connect(edge.http).await.unwrap()), "http"),
    ] {
        let mut sender = http2(stream).await;
        let (status, seen) = get_over_http2(&mut sender, &format!("{scheme}://a.apps.localhost/x")).await;
        assert_eq!(status, StatusCode::OK);
        assert!(seen.starts_with("GET /x\nhost: a.apps.localhost\n"), "{seen}");
        assert!(seen.contains(&format!("x-forwarded-proto: {scheme}\n")), "{seen}");
        let unknown = get_over_http2(&mut sender, &format!("{scheme}://b.apps.localhost/")).await;
        assert_eq!(unknown.0, StatusCode::NOT_FOUND);
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_swapped_while_serving() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_pair(directory.path(), "apps", &["*.apps.localhost"]);
    let certificates = certificates_in(directory.path());
    certificates.watch().unwrap();
    let instance = Instance::named("a").await;
    let edge =
        Edge::start_with_tls(table(1, &[("a.apps.localhost", &[&instance.upstream])]), Some(&certificates));
    let https = edge.https.unwrap();
    let shown = async |name: &str| {
        let stream = authority.connect(https, name, b"http/1.1").await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        Ok::<_, std::io::Error>(certificates[0].to_vec())
    };
    let first = shown("a.apps.localhost").await.unwrap();
    assert_eq!(shown("b.apps.localhost").await.unwrap(), first);
    assert!(shown("example.org").await.is_err(), "no certificate for that name");

    authority.write_pair(directory.path(), "own", &["example.org"]);
    within(async { while shown("example.org").await.is_err() {} }).await;
    authority.write_pair(directory.path(), "apps", &["*.apps.localhost"]);
    within(async { while shown("a.apps.localhost").await.unwrap() == first {} }).await;
    let second = shown("a.apps.localhost").await.unwrap();
    std::fs::write(directory.path().join("apps.crt"), "not a certificate").unwrap();
    authority.write_pair(directory.path(), "more", &["more.example.org"]);
    within(async { while shown("more.example.org").await.is_err() {} }).await;
    assert_eq!(shown("a.apps.localhost").await.unwrap(), second, "the good one stays");
}

#[tokio::test]
async fn shutdown_lets_requests_end() {
    let (begun, has_begun) = oneshot::channel();
    let begun = Arc::new(std::sync::Mutex::new(Some(begun)));
    let finish = Arc::new(Notify::new());
    let finished = finish.clone();
    let instance = Instance::http(move |_| {
        let (begun, finished) = (begun.clone(), finished.clone());
        async move {
            begun.lock().unwrap().take().unwrap().send(()).unwrap();
            finished.notified().await;
            Response::new(Full::from("done"))
        }
    })
    .await;
    let edge = Edge::start(table(1, &[("a.localhost", &[&instance.upstream])]));
    let http = edge.http;
    let idle = TcpStream::connect(http).await.unwrap();
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n").await.unwrap();
    within(has_begun).await.unwrap();
    let shutdown = tokio::spawn(edge.ingress.shutdown(Duration::from_secs(20)));
    within(async { while TcpStream::connect(http).await.is_ok() {} }).await;
    drop(idle);
    finish.notify_one();
    let mut response = String::new();
    within(stream.read_to_string(&mut response)).await.unwrap();
    assert_eq!(parse(&response), (StatusCode::OK, "done".to_owned()));
    within(shutdown).await.unwrap();
    drop(TcpListener::bind(http).await.unwrap());
}

#[tokio::test]
async fn a_load_balancer_tells_the_addresses_of_its_visitors() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_pair(directory.path(), "apps", &["*.apps.localhost"]);
    let certificates = certificates_in(directory.path());
    let mirror = Instance::mirror().await;
    let table = || table(1, &[("a.apps.localhost", &[&mirror.upstream])]);
    let behind = |network: &str| {
        let balancers = Balancers(vec![network.parse().unwrap()]);
        let doors = Doors { balancers, ..Doors::default() };
        Edge::start_as(doors, table(), Some(&certificates))
    };
    let request = "GET / HTTP/1.1\r\nHost: a.apps.localhost\r\nConnection: close\r\n\r\n";
    let told = "PROXY TCP4 198.51.100.7 192.0.2.9 12345 443\r\n";

    let edge = behind("127.0.0.0/8");
    let seen = edge.exchange(&format!("{told}{request}")).await;
    assert!(seen.contains("x-forwarded-for: 198.51.100.7\n"), "{seen}");
    let mut stream = TcpStream::connect(edge.https.unwrap()).await.unwrap();
    stream.write_all(told.as_bytes()).await.unwrap();
    let mut stream = authority.over(stream, "a.apps.localhost", b"http/1.1").await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let _ = within(stream.read_to_string(&mut seen)).await;
    assert!(seen.contains("x-forwarded-for: 198.51.100.7\n"), "{seen}");

    let mut silent = TcpStream::connect(edge.http).await.unwrap();
    silent.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = within(silent.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "who is declared has to tell");

    let edge = behind("192.0.2.0/24");
    assert_eq!(parse(&edge.exchange(&format!("{told}{request}")).await).0, StatusCode::BAD_REQUEST);
    let seen = edge.exchange(request).await;
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\n"), "who is not declared is not believed: {seen}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_however_its_length_is_told() {
    let mirror = Instance::mirror().await;
    let doors = Doors { limits: Limits { request_bytes_max: 8, ..Limits::default() }, ..Doors::default() };
    let edge = Edge::start_as(doors, table(1, &[("a.localhost", &[&mirror.upstream])]), None);
    let head = "POST / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n";
    let in_chunks = |body: &str| format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
    for (request, status) in [
        (format!("{head}Content-Length: 8\r\n\r\n12345678"), StatusCode::OK),
        (in_chunks("4\r\n1234\r\n4\r\n5678\r\n"), StatusCode::OK),
        (format!("{head}Content-Length: 9\r\n\r\n123456789"), StatusCode::PAYLOAD_TOO_LARGE),
        (in_chunks("4\r\n1234\r\n5\r\n56789\r\n"), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        assert_eq!(parse(&edge.exchange(&request).await).0, status, "{request}");
    }
}

#[tokio::test]
async fn who_begins_and_never_goes_on_is_let_go() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_pair(directory.path(), "apps", &["*.apps.localhost"]);
    let certificates = certificates_in(directory.path());
    let edge = Edge::start_with_tls(table(1, &[]), Some(&certificates));
    let begun = |address, bytes: &'static [u8]| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // It may be closed with a reset, after what was said to it.
        while matches!(within(stream.read_buf(&mut Vec::with_capacity(1024))).await, Ok(1..)) {}
    };
    tokio::join!(
        begun(edge.http, b""),
        begun(edge.http, b"GET / HTTP/1.1\r\nHost: a.apps.localhost\r\nX: "),
        begun(edge.http, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        begun(edge.https.unwrap(), b""),
        begun(edge.https.unwrap(), b"\x16\x03\x01\x02\x00\x01"),
    );
}
