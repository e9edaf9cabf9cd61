//! Traffic shaping against the real kernel. Needs root.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wisehosting_network::testing::{pattern, wire};
use wisehosting_network::{
    Netlink, NetworkError, NetworkNamespace, ShapingOp, Side, TokenBucket, diff_shaping, observe_shaping,
    shape,
};

const CONTAINER: &str = "192.0.2.2:7000";

/// A host and a container of it, as a container engine joins them.
struct Pair {
    host: NetworkNamespace,
    container: NetworkNamespace,
    netlink: Netlink,
}

impl Pair {
    async fn new() -> Self {
        let (host, container) = (NetworkNamespace::create().unwrap(), NetworkNamespace::create().unwrap());
        let netlink = Netlink::inside(&host).unwrap();
        // So that the numbers of the two ends differ.
        netlink.add_bridge("br0").await.unwrap();
        wire((&host, "veth0", "192.0.2.1/24"), (&container, "eth0", "192.0.2.2/24")).await;
        Self { host, container, netlink }
    }

    async fn shape(&self, desired: Option<TokenBucket>) -> Result<Vec<ShapingOp>, NetworkError> {
        shape(&self.container, &self.netlink, desired).await
    }

    async fn buckets(&self) -> Vec<(Side, String, Option<TokenBucket>)> {
        let observed = observe_shaping(&self.container, &self.netlink).await.unwrap();
        observed.into_iter().map(|link| (link.side, link.name, link.bucket)).collect()
    }
}

fn both(bucket: Option<TokenBucket>) -> Vec<(Side, String, Option<TokenBucket>)> {
    [(Side::Container, "eth0"), (Side::Host, "veth0")]
        .map(|(side, name)| (side, name.to_owned(), bucket))
        .to_vec()
}

#[tokio::test]
async fn a_limit_is_set_replaced_and_removed_in_both_directions() {
    let pair = Pair::new().await;
    assert_eq!(pair.buckets().await, both(None));

    for bits_per_s in [100_000, 1_000_000, 100_000_000, 10_000_000_000] {
        let bucket = TokenBucket::for_rate(bits_per_s);
        assert_eq!(pair.shape(Some(bucket)).await.unwrap().len(), 2);
        assert_eq!(pair.buckets().await, both(Some(bucket)));
        assert_eq!(pair.shape(Some(bucket)).await.unwrap(), [], "what is right is left alone");
    }

    assert_eq!(pair.shape(None).await.unwrap().len(), 2);
    assert_eq!(pair.buckets().await, both(None));
    assert_eq!(pair.shape(None).await.unwrap(), []);
    pair.netlink.delete_token_bucket("veth0").await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_when_the_container_has_ended() {
    let pair = Pair::new().await;
    pair.shape(Some(TokenBucket::for_rate(1_000_000))).await.unwrap();
    let names = async || -> Vec<String> {
        pair.netlink.links().await.unwrap().into_iter().map(|link| link.name).collect()
    };
    assert_eq!(names().await, ["lo", "br0", "veth0"]);

    Netlink::inside(&pair.container).unwrap().delete_link("eth0").await.unwrap();

    assert_eq!(names().await, ["lo", "br0"]);
    assert_eq!(pair.buckets().await, []);
    assert_eq!(pair.shape(None).await.unwrap(), []);
    let error = pair.shape(Some(TokenBucket::for_rate(1_000_000))).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot shape the veth pair of a container: there is no such interface");
}

#[tokio::test]
async fn a_limit_that_was_changed_or_lifted_by_others_is_restored() {
    let pair = Pair::new().await;
    let bucket = TokenBucket::for_rate(5_000_000);
    pair.shape(Some(bucket)).await.unwrap();

    pair.netlink.delete_token_bucket("veth0").await.unwrap();
    let repair = ShapingOp::Set(Side::Host, "veth0".to_owned(), bucket);
    assert_eq!(pair.shape(Some(bucket)).await.unwrap(), std::slice::from_ref(&repair));

    pair.netlink.set_token_bucket("veth0", TokenBucket::for_rate(6_000_000)).await.unwrap();
    assert_eq!(pair.shape(Some(bucket)).await.unwrap(), [repair]);
    assert_eq!(pair.buckets().await, both(Some(bucket)));
}

#[test]
fn after_apply_the_difference_is_empty() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pair = runtime.block_on(Pair::new());
    let desired = proptest::option::of((100_000_u64..=10_000_000_000).prop_map(TokenBucket::for_rate));
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let settled = runner.run(&desired, |desired| {
        runtime.block_on(async {
            pair.shape(desired).await.unwrap();
            let observed = observe_shaping(&pair.container, &pair.netlink).await.unwrap();
            prop_assert_eq!(diff_shaping(&observed, desired), []);
            Ok(())
        })
    });
    settled.unwrap();
}

#[tokio::test]
async fn a_transfer_arrives_whole_in_both_directions() {
    let pair = Pair::new().await;
    pair.shape(Some(TokenBucket::for_rate(50_000_000))).await.unwrap();
    let listener = pair.container.run(|| TcpListener::bind(CONTAINER).unwrap()).unwrap();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let sent = pattern(1 << 20);

    let mut stream = pair.host.run(|| TcpStream::connect(CONTAINER).unwrap()).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();

    echo.join().unwrap();
    assert!(back == sent, "the bytes that came back are others");
}
