//! How long things may take: who is too slow is told so, or cut off, and lets go of the route table.

use crate::surroundings::{Edge, Instance, http2, parse, table, within};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::{future::pending, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, sleep},
};
use wisehosting_edge::ingress::{Doors, Limits};

/// A limit that the test reaches.
const SHORT: Duration = Duration::from_millis(500);
/// Many times within that.
const PACE: Duration = Duration::from_millis(50);
/// Surely longer than that.
const LATE: Duration = Duration::from_millis(2_000);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n";

fn edge(instance: &Instance, limits: Limits) -> Edge {
    let doors = Doors { limits, ..Doors::default() };
    Edge::start_as(doors, table(1, &[("a.localhost", &[&instance.upstream])]), None)
}

fn short_answer() -> Limits {
    Limits { answer_timeout: SHORT, ..Limits::default() }
}

fn short_stall() -> Limits {
    Limits { stall_timeout: SHORT, ..Limits::default() }
}

/// Reads a request, answers the beginning, and then what `then` says.
async fn begins<F>(
    begin: &'static str,
    then: impl Fn(TcpStream) -> F + Copy + Send + Sync + 'static,
) -> Instance
where
    F: Future<Output = ()> + Send + 'static,
{
    Instance::raw(move |mut stream| async move {
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        then(stream).await;
    })
    .await
}

/// Says nothing more, and does not leave.
async fn silent(stream: TcpStream) {
    pending::<()>().await;
    drop(stream);
}

/// Sends until nobody takes it any more.
async fn endless(mut stream: TcpStream) {
    while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
}

async fn send(edge: &Edge, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(edge.http).await.unwrap();
    stream.write_all(request).await.unwrap();
    stream
}

/// Waits until no request holds the first table.
async fn let_go(edge: &Edge) {
    let mut oldest = edge.generations.oldest();
    edge.install(table(2, &[])).await;
    within(oldest.wait_for(|oldest| *oldest == 2)).await.unwrap();
}

#[tokio::test]
async fn the_visitor_of_an_instance_that_does_not_answer_gets_a_page() {
    let instance = begins("", silent).await;
    let edge = edge(&instance, short_answer());
    let post = "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    for (status, page) in [edge.get("a.localhost").await, parse(&edge.exchange(post).await)] {
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert!(page.contains("did not answer in time"), "{page}");
    }
}

/// Sends a request of so many pieces one after the other; how it is answered.
async fn upload(edge: &Edge, piece: &[u8], pieces: usize) -> (StatusCode, String) {
    let length = piece.len() * pieces;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let (mut reader, mut writer) = send(edge, head.as_bytes()).await.into_split();
    let sending = tokio::spawn({
        let (piece, mut pace) = (piece.to_vec(), interval(PACE));
        async move {
            for _ in 0..pieces {
                pace.tick().await;
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
            pending::<()>().await;
        }
    });
    let mut answer = Vec::new();
    // It may be closed with a reset, after what was said to it.
    let _ = within(reader.read_to_end(&mut answer)).await;
    sending.abort();
    parse(&String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn a_request_has_time_for_as_long_as_it_moves() {
    let instance = Instance::http(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::from(body.len().to_string()))
    })
    .await;
    let edge = edge(&instance, short_answer());
    let (status, length) = upload(&edge, &[b'x'; 2048], 40).await;
    assert_eq!((status, length.as_str()), (StatusCode::OK, "81920"));
    let (status, page) = upload(&edge, b"x", 1_000).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "a byte now and then is no progress");
    assert!(page.contains("did not come in time"), "{page}");
}

#[tokio::test]
async fn a_response_that_its_instance_does_not_finish_is_cut_off() {
    let instance = begins("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", silent).await;
    let edge = edge(&instance, short_stall());
    let mut stream = send(&edge, GET).await;
    let mut response = Vec::new();
    let _ = within(stream.read_to_end(&mut response)).await;
    assert!(response.ends_with(b"half"), "{response:?}");
    let_go(&edge).await;
}

#[tokio::test]
async fn a_response_that_its_visitor_does_not_take_is_cut_off() {
    for begin in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    ] {
        let instance = begins(begin, endless).await;
        let edge = edge(&instance, short_stall());
        let mut stream = send(&edge, GET).await;
        // It is on its way, and no more of it is taken.
        within(stream.read_exact(&mut [0; 8])).await.unwrap();
        let_go(&edge).await;
        drop(stream);
    }
}

#[tokio::test]
async fn of_the_streams_of_a_visitor_only_one_that_stalls_is_cut_off() {
    let instance = Instance::raw(|mut stream| async move {
        let mut head = Vec::with_capacity(4096);
        stream.read_buf(&mut head).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await
            .unwrap();
        if head.starts_with(b"GET /stalls") {
            return silent(stream).await;
        }
        let mut pace = interval(PACE);
        for _ in 0..60 {
            pace.tick().await;
            stream.write_all(b"1\r\nx\r\n").await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    })
    .await;
    let edge = edge(&instance, short_stall());
    let mut client = http2(TcpStream::connect(edge.http).await.unwrap()).await;
    let mut get = async |path: &str| {
        let uri = format!("http://a.localhost/{path}");
        let request = Request::get(uri).version(Version::HTTP_2).body(Full::<Bytes>::default()).unwrap();
        within(client.send_request(request)).await.unwrap().into_body()
    };
    let (stalls, moves) = (get("stalls").await, get("moves").await);
    within(stalls.collect()).await.unwrap_err();
    assert_eq!(within(moves.collect()).await.unwrap().to_bytes().len(), 64);
    let_go(&edge).await;
}

#[tokio::test]
async fn events_may_be_rare() {
    let late = |mut stream: TcpStream| async move {
        sleep(LATE).await;
        stream.write_all(b"data: late\n\n").await.unwrap();
    };
    let instance =
        begins("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n", late).await;
    let edge = edge(&instance, short_stall());
    let mut response = String::new();
    within(send(&edge, GET).await.read_to_string(&mut response)).await.unwrap();
    assert!(response.contains("data: late\n\n"), "{response}");
}
