//! gRPC through a running ingress: streams both ways at once, with trailers, by HTTP/2 from end to end.

use crate::surroundings::{Authority, Edge, Instance, certificates_in, table, within};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::{interval, sleep},
};
use wisehosting_edge::ingress::{Doors, Limits};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A gRPC service: sends back each message as it comes, and says at the end how it went.
struct Service {
    instance: Instance,
    /// What was asked for last.
    asked: Arc<Mutex<Option<http::request::Parts>>>,
    /// Has connections closed that have no streams.
    close: Arc<Notify>,
}

impl Service {
    async fn start() -> Self {
        let (asked, close) = (Arc::<Mutex<_>>::default(), Arc::<Notify>::default());
        let (notes, closing) = (asked.clone(), close.clone());
        let instance = Instance::raw(move |stream| {
            let (notes, closing) = (notes.clone(), closing.clone());
            async move {
                let service = service_fn(move |request| echo(request, notes.clone()));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                let mut server = std::pin::pin!(server);
                tokio::select! {
                    _ = server.as_mut() => return,
                    () = closing.notified() => server.as_mut().graceful_shutdown(),
                }
                let _ = server.await;
            }
        })
        .await;
        Self { instance, asked, close }
    }
}

async fn echo(
    request: Request<Incoming>,
    asked: Arc<Mutex<Option<http::request::Parts>>>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    *asked.lock().unwrap() = Some(parts);
    let whole = Arc::new(AtomicBool::new(true));
    let is_whole = whole.clone();
    let messages = BodyStream::new(body).filter_map(move |frame| {
        whole.fetch_and(frame.is_ok(), Ordering::SeqCst);
        async move { frame.ok()?.into_data().ok().map(|data| Ok(Frame::data(data))) }
    });
    let end = stream::once(async move {
        let status = if is_whole.load(Ordering::SeqCst) { "0" } else { "13" };
        Ok(Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())])))
    });
    let body = StreamBody::new(messages.chain(end)).boxed_unsync();
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

async fn client<S>(stream: S) -> SendRequest<Body>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = within(handshake).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A call whose messages are sent by the sender that it returns.
async fn call(
    client: &mut SendRequest<Body>,
    scheme: &str,
) -> (mpsc::UnboundedSender<Bytes>, Response<Incoming>) {
    let (sender, messages) = mpsc::unbounded_channel();
    let messages = stream::unfold(messages, async |mut messages| {
        messages.recv().await.map(|message| (Ok(Frame::data(message)), messages))
    });
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://a.apps.localhost/pkg.Echo/Call"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("x-forwarded-for", "10.0.0.1")
        .header("grpc-timeout", "10S")
        .body(StreamBody::new(messages).boxed_unsync())
        .unwrap();
    (sender, within(client.send_request(request)).await.unwrap())
}

async fn message(response: &mut Response<Incoming>) -> Bytes {
    within(response.frame()).await.unwrap().unwrap().into_data().unwrap()
}

/// How the call went, when there are no more messages.
async fn status(response: &mut Response<Incoming>) -> String {
    let trailers = within(response.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert!(within(response.frame()).await.is_none());
    trailers["grpc-status"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_call_goes_both_ways_at_once_and_ends_with_its_trailers() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_pair(directory.path(), "apps", &["*.apps.localhost"]);
    let certificates = certificates_in(directory.path());
    let service = Service::start().await;
    let upstreams = [&service.instance.upstream];
    let edge = Edge::start_with_tls(table(1, &[("a.apps.localhost", &upstreams)]), Some(&certificates));
    let tls = authority.connect(edge.https.unwrap(), "a.apps.localhost", b"h2").await.unwrap();
    let clear = TcpStream::connect(edge.http).await.unwrap();
    for (mut client, scheme) in [(client(tls).await, "https"), (client(clear).await, "http")] {
        let (sender, mut response) = call(&mut client, scheme).await;
        assert_eq!(response.status(), StatusCode::OK);
        for text in ["one", "two"] {
            sender.send(text.into()).unwrap();
            assert_eq!(message(&mut response).await, text);
        }
        drop(sender);
        assert_eq!(status(&mut response).await, "0");
        let asked = service.asked.lock().unwrap().take().unwrap();
        assert_eq!((asked.version, asked.uri.path()), (Version::HTTP_2, "/pkg.Echo/Call"));
        assert_eq!(asked.uri.authority().unwrap(), "a.apps.localhost");
        for (name, value) in [
            ("te", "trailers"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", scheme),
            ("grpc-timeout", "10S"),
        ] {
            let values: Vec<_> = asked.headers.get_all(name).iter().collect();
            assert_eq!(values, [value], "{name}");
        }
    }
}

#[tokio::test]
async fn calls_share_a_connection_until_the_instance_closes_it() {
    let service = Service::start().await;
    let gone = Instance::named("gone").await.upstream.clone();
    let upstreams = [&gone, &service.instance.upstream];
    let edge = Edge::start(table(1, &[("a.apps.localhost", &upstreams)]));
    let mut client = client(TcpStream::connect(edge.http).await.unwrap()).await;
    for connections in [1, 2, 3] {
        for _ in 0..3 {
            let (sender, mut response) = call(&mut client, "http").await;
            sender.send("x".into()).unwrap();
            assert_eq!(message(&mut response).await, "x");
            drop(sender);
            assert_eq!(status(&mut response).await, "0");
        }
        assert_eq!(service.instance.connections.load(Ordering::SeqCst), connections);
        service.close.notify_waiters();
    }
}

/// How a call with so many messages of four bytes ends: what it is answered, and its last word; an error if it breaks off.
async fn outcome(edge: &Edge, messages: usize) -> hyper::Result<(StatusCode, Option<String>)> {
    let mut client = client(TcpStream::connect(edge.http).await.unwrap()).await;
    let messages = stream::iter((0..messages).map(|_| Ok(Frame::data(Bytes::from("four")))));
    let request = Request::post("http://a.apps.localhost/pkg.Echo/Call")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(StreamBody::new(messages).boxed_unsync());
    let response = within(client.send_request(request.unwrap())).await?;
    let (status, body) = (response.status(), within(response.into_body().collect()).await?);
    let last = body.trailers().map(|trailers| trailers["grpc-status"].to_str().unwrap().to_owned());
    Ok((status, last))
}

#[tokio::test]
async fn a_call_that_is_too_large_or_that_nobody_takes_does_not_succeed() {
    let (service, old) = (Service::start().await, Instance::named("speaks HTTP/1.1").await);
    let gone = Instance::named("gone").await.upstream.clone();
    let edge = |upstream| {
        let doors =
            Doors { limits: Limits { request_bytes_max: 8, ..Limits::default() }, ..Doors::default() };
        Edge::start_as(doors, table(1, &[("a.apps.localhost", &[upstream])]), None)
    };
    let to_service = edge(&service.instance.upstream);
    assert_eq!(outcome(&to_service, 2).await.unwrap(), (StatusCode::OK, Some("0".to_owned())));
    // The service may have begun its answer before it was too much; then it breaks off.
    let too_large = outcome(&to_service, 3).await;
    assert!(too_large.is_err() || too_large.unwrap().0 == StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(outcome(&edge(&old.upstream), 1).await.unwrap().0, StatusCode::BAD_GATEWAY);
    assert_eq!(outcome(&edge(&gone), 1).await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
}

/// A service that answers a call when all of it has come, and then takes its time.
async fn slow_service(takes: Duration) -> Instance {
    Instance::raw(move |stream| async move {
        let service = service_fn(move |request: Request<Incoming>| async move {
            let _ = request.into_body().collect().await;
            sleep(takes).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

/// What a call is answered that has so much time and sends so many messages, one every 50 ms.
async fn slow_call(edge: &Edge, time: Option<&str>, messages: usize) -> StatusCode {
    let mut client = client(TcpStream::connect(edge.http).await.unwrap()).await;
    let messages =
        stream::unfold((0, interval(Duration::from_millis(50))), move |(sent, mut pace)| async move {
            pace.tick().await;
            (sent < messages).then(|| (Ok(Frame::data(Bytes::from("x"))), (sent + 1, pace)))
        });
    let mut request = Request::post("http://a.apps.localhost/pkg.Slow/Call")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc");
    if let Some(time) = time {
        request = request.header("grpc-timeout", time);
    }
    let request = request.body(StreamBody::new(messages).boxed_unsync()).unwrap();
    within(client.send_request(request)).await.unwrap().status()
}

#[tokio::test]
async fn a_call_has_as_much_time_as_it_says_or_as_its_messages_take() {
    let answer_timeout = Duration::from_millis(500);
    let edge = |upstream, answer_timeout| {
        let doors = Doors { limits: Limits { answer_timeout, ..Limits::default() }, ..Doors::default() };
        Edge::start_as(doors, table(1, &[("a.apps.localhost", &[upstream])]), None)
    };
    let quick = slow_service(Duration::ZERO).await;
    assert_eq!(slow_call(&edge(&quick.upstream, answer_timeout), None, 40).await, StatusCode::OK);
    let slow = slow_service(answer_timeout * 4).await;
    let to_slow = edge(&slow.upstream, answer_timeout);
    assert_eq!(slow_call(&to_slow, None, 1).await, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(slow_call(&to_slow, Some("20S"), 1).await, StatusCode::OK);
    let patient = edge(&slow.upstream, Duration::from_secs(3_600));
    assert_eq!(slow_call(&patient, Some("500m"), 1).await, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_call_may_be_silent_for_as_long_as_it_likes() {
    let service = Service::start().await;
    let stall_timeout = Duration::from_millis(300);
    let doors = Doors { limits: Limits { stall_timeout, ..Limits::default() }, ..Doors::default() };
    let edge = Edge::start_as(doors, table(1, &[("a.apps.localhost", &[&service.instance.upstream])]), None);
    let mut client = client(TcpStream::connect(edge.http).await.unwrap()).await;
    let (sender, mut response) = call(&mut client, "http").await;
    sleep(stall_timeout * 5).await;
    sender.send("late".into()).unwrap();
    assert_eq!(message(&mut response).await, "late");
    drop(sender);
    assert_eq!(status(&mut response).await, "0");
}
