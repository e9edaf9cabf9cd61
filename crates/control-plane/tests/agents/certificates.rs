//! Certificates that edges share: one orders at a time, all show its challenge, each gets what it lacks.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use wisehosting_control_plane::{config::EdgeConfig, state::AppState};
use wisehosting_domain::{
    certificate::{Challenge, ChallengeKind},
    id::JobId,
    name::Hostname,
};
use wisehosting_node::{
    certificate::Pair,
    channel::Role,
    clock::{Clock as _, SystemClock},
    tls::{self, Authorities},
};
use wisehosting_protocol::{
    key::SigningKey,
    message::HubMessage,
    payload::{
        Certificate, CertificateGet, CertificateOrder, ChallengesShown, Heartbeat, OrderStep, Validity,
    },
};
use wisehosting_store::{MIGRATOR, certificates, changes, pool};

use crate::{
    agent::Agent,
    platform::{MASTER_KEY, Platform, api_key, label},
    sealing::{NEXT_KEY, key_id, start_with as start_with_keys, tables_with},
};

const BEGIN: OrderStep = OrderStep::Begin { held_not_before_ms: None };

fn host() -> Hostname {
    "blog.localhost".parse().unwrap()
}

/// An authority of which certificates are made by hand.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: Authorities,
}

impl Authority {
    fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut roots = tls::nobody();
        Arc::make_mut(&mut roots).add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { issuer: Issuer::new(params, key), roots }
    }

    /// A certificate that is good from so many days ago on, for 90 days.
    fn certificate(&self, host: Hostname, days: i64) -> Certificate {
        let (key, mut params) =
            (KeyPair::generate().unwrap(), CertificateParams::new([host.to_string()]).unwrap());
        params.not_before = SystemClock.now() - Duration::days(days);
        params.not_after = params.not_before + Duration::days(90);
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key = key.serialize_pem();
        let pair = Pair::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let ms = |at: OffsetDateTime| u64::try_from(at.unix_timestamp()).unwrap() * 1_000;
        let validity = Validity { not_before_ms: ms(pair.not_before), not_after_ms: ms(pair.not_after) };
        Certificate { host, validity, chain, key: key.into() }
    }
}

/// The one that control planes trust.
fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(Authority::new)
}

fn trust(state: &mut AppState) {
    Arc::get_mut(&mut state.config).unwrap().certificates.authorities = authority().roots.clone();
}

/// A good certificate for the app.
fn certificate(days: i64) -> Certificate {
    authority().certificate(host(), days)
}

/// A control plane that knows a second edge, and an app.
async fn start(pool: &PgPool) -> Platform {
    let platform = Platform::start_with(pool.clone(), |state| {
        trust(state);
        let key = SigningKey::derive(&api_key("proxy-2"));
        let api_key_sha256 = wisehosting_control_plane::config::KeyHash(*key.as_bytes());
        let address = "10.50.0.31".parse().unwrap();
        let edge = EdgeConfig { name: label("proxy-2"), address, api_key_sha256 };
        Arc::get_mut(&mut state.config).unwrap().edges.push(edge);
    })
    .await;
    platform.create_app("blog").await;
    platform
}

fn id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

async fn say(edge: &Agent, host: &Hostname, order_id: JobId, step: OrderStep) {
    edge.send(CertificateOrder { host: host.clone(), order_id, step }).await;
}

/// Has the edge ask for an order that nobody contests: what it said before has been heard then.
async fn is_heard(platform: &Platform, edge: &mut Agent, number: u128) {
    platform.create_app(&format!("order-{number}")).await;
    let host: Hostname = format!("order-{number}.localhost").parse().unwrap();
    say(edge, &host, id(number), BEGIN).await;
    edge.knows(|known| known.orders.contains_key(&host)).await;
}

/// Which order the edge knows of.
fn ordered(edge: &Agent) -> Option<JobId> {
    edge.known.orders.get(&host()).map(|order| order.order_id)
}

async fn given(edge: &mut Agent) -> Certificate {
    edge.send(CertificateGet { host: host() }).await;
    loop {
        match edge.next().await {
            HubMessage::Certificate(certificate) => return certificate,
            HubMessage::Routes(_) => {}
            message => panic!("no certificate but {message:?}"),
        }
    }
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn one_edge_orders_and_all_have_the_certificate(pool: PgPool) {
    let platform = start(&pool).await;
    let (mut one, mut two) =
        (Agent::edge(&platform, "proxy-1").await, Agent::edge(&platform, "proxy-2").await);
    say(&one, &host(), id(1), BEGIN).await;
    one.knows(|known| known.orders.contains_key(&host())).await;
    say(&two, &host(), id(2), BEGIN).await;
    is_heard(&platform, &mut two, 12).await;
    assert_eq!(ordered(&two), Some(id(1)), "it is the other's turn");

    let token = "token".to_owned();
    let challenge = Challenge {
        kind: ChallengeKind::Http01,
        token: token.clone(),
        key_authorization: "token.thumbprint".to_owned(),
    };
    say(&one, &host(), id(1), OrderStep::Challenge(challenge.clone())).await;
    for edge in [&mut one, &mut two] {
        edge.knows(|known| known.orders[&host()].challenge.as_ref() == Some(&challenge)).await;
    }
    one.send(ChallengesShown { tokens: vec![token.clone()] }).await;
    is_heard(&platform, &mut one, 11).await;
    assert!(!one.known.orders[&host()].shown, "one edge does not show it yet");
    two.send(ChallengesShown { tokens: vec!["other".to_owned(), token] }).await;
    for edge in [&mut one, &mut two] {
        edge.knows(|known| known.orders[&host()].shown).await;
    }

    let kept = certificate(70);
    one.send(kept.clone()).await;
    for edge in [&mut one, &mut two] {
        edge.knows(|known| known.stored.contains_key(&host())).await;
        assert_eq!(edge.known.stored[&host()], kept.validity);
        assert_eq!(ordered(edge), None);
        assert_eq!(given(edge).await, kept);
    }
    assert_eq!(tables_with(&pool, "BEGIN CERTIFICATE").await, ["certificates"]);
    assert_eq!(tables_with(&pool, "PRIVATE KEY").await, Vec::<String>::new());

    // Who lacks the certificate has nothing to order; who has it may order the next one.
    say(&two, &host(), id(3), BEGIN).await;
    two.send(certificate(71)).await;
    is_heard(&platform, &mut two, 13).await;
    assert_eq!((ordered(&two), given(&mut two).await), (None, kept.clone()), "an older one is not kept");
    let begin = |of: &Certificate| OrderStep::Begin { held_not_before_ms: Some(of.validity.not_before_ms) };
    say(&two, &host(), id(4), begin(&kept)).await;
    two.knows(|known| known.orders.contains_key(&host())).await;
    assert_eq!(ordered(&two), Some(id(4)));

    // The next one is not to be renewed yet, whatever an edge's clock says.
    let next = certificate(1);
    two.send(next.clone()).await;
    two.knows(|known| known.stored[&host()] == next.validity).await;
    say(&two, &host(), id(5), begin(&next)).await;
    is_heard(&platform, &mut two, 14).await;
    assert_eq!(ordered(&two), None);
    platform.stop().await;
}

async fn lease_s(pool: &PgPool) -> Option<i64> {
    let query =
        "SELECT extract(epoch FROM lease_until)::int8 FROM certificates WHERE host = 'blog.localhost'";
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_order_is_an_edges_for_as_long_as_it_is_heard_of(pool: PgPool) {
    let platform = start(&pool).await;
    platform.clock.stop();
    let advance = |seconds| {
        platform.clock.advance(std::time::Duration::from_secs(seconds));
        platform.state.signals.certificates.notify_one();
    };
    let mut one = Agent::edge(&platform, "proxy-1").await;
    let mut two = Agent::edge(&platform, "proxy-2").await;
    say(&one, &host(), id(1), BEGIN).await;
    one.knows(|known| known.orders.contains_key(&host())).await;
    let first = lease_s(&pool).await;
    advance(29);
    let running_jobs = vec![id(1)];
    one.send(Heartbeat { memory_bytes_used: 0, cpu_millis_used: 0, instances: None, running_jobs }).await;
    platform
        .eventually(async || {
            let now = lease_s(&pool).await;
            if now > first { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    advance(29);
    is_heard(&platform, &mut two, 12).await;
    assert_eq!(ordered(&two), Some(id(1)), "it has been renewed");
    advance(2);
    two.knows(|known| !known.orders.contains_key(&host())).await;
    say(&two, &host(), id(2), BEGIN).await;
    two.knows(|known| known.orders.contains_key(&host())).await;
    assert_eq!(ordered(&two), Some(id(2)));

    // A new connection that lists the order goes on with it; one that does not has lost it.
    drop(two);
    let mut two = Agent::connect(&platform, Role::Edge, "proxy-2", &[id(2)]).await;
    is_heard(&platform, &mut two, 22).await;
    assert_eq!(ordered(&two), Some(id(2)));
    drop(two);
    let _two = Agent::edge(&platform, "proxy-2").await;
    one.knows(|known| !known.orders.contains_key(&host())).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_failure_holds_all_edges_back(pool: PgPool) {
    let platform = start(&pool).await;
    platform.clock.stop();
    let advance = |duration: Duration| {
        platform.clock.advance(duration.unsigned_abs());
        platform.state.signals.certificates.notify_one();
    };
    let mut edges = [Agent::edge(&platform, "proxy-1").await, Agent::edge(&platform, "proxy-2").await];
    for (turn, wait) in [Duration::minutes(1), Duration::minutes(4)].into_iter().enumerate() {
        let order = id(1 + turn as u128);
        let edge = &mut edges[turn];
        say(edge, &host(), order, BEGIN).await;
        edge.knows(|known| known.orders.contains_key(&host())).await;
        say(edge, &host(), order, OrderStep::Failed).await;
        edge.knows(|known| known.held_back == [host()]).await;
        let other = &mut edges[1 - turn];
        other.knows(|known| known.held_back == [host()]).await;
        say(other, &host(), id(100), BEGIN).await;
        is_heard(&platform, other, 10 + turn as u128).await;
        assert_eq!(ordered(other), None);
        advance(wait - Duration::SECOND);
        is_heard(&platform, other, 20 + turn as u128).await;
        assert_eq!(other.known.held_back, [host()]);
        advance(Duration::SECOND);
        for edge in &mut edges {
            edge.knows(|known| known.held_back.is_empty()).await;
        }
    }
    platform.stop().await;
}

async fn start_with_authority(pool: &PgPool, keys: &[&str]) -> Platform {
    start_with_keys(pool, keys, trust).await
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_key_is_sealed_anew_or_given_again(pool: PgPool) {
    let platform = start_with_authority(&pool, &[MASTER_KEY]).await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    platform.create_app("blog").await;
    let kept = certificate(1);
    edge.send(kept.clone()).await;
    edge.knows(|known| !known.stored.is_empty()).await;
    platform.stop().await;
    let sealed_by = async || -> Option<String> {
        sqlx::query_scalar("SELECT key ->> 'k' FROM certificates").fetch_one(&pool).await.unwrap()
    };
    assert_eq!(sealed_by().await, Some(key_id(MASTER_KEY)));

    let platform = start_with_authority(&pool, &[NEXT_KEY, MASTER_KEY]).await;
    assert_eq!(sealed_by().await, Some(key_id(NEXT_KEY)));
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    edge.knows(|known| !known.stored.is_empty()).await;
    assert_eq!(given(&mut edge).await, kept);
    platform.stop().await;

    let platform = start_with_authority(&pool, &[MASTER_KEY]).await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    edge.knows(|known| known.stored.is_empty()).await;
    edge.send(kept).await;
    edge.knows(|known| !known.stored.is_empty()).await;
    platform.stop().await;
}

/// What an edge may not have kept, by what is wrong with it.
fn refused() -> Vec<(&'static str, Certificate)> {
    let good = certificate(1);
    let (stranger, other_host) = (Authority::new(), "shop.localhost".parse().unwrap());
    let in_future = |validity: Validity| Validity { not_before_ms: validity.not_before_ms + 1, ..validity };
    vec![
        ("another authority", stranger.certificate(host(), 0)),
        ("another key", Certificate { key: certificate(0).key, ..good.clone() }),
        ("another name", Certificate { host: host(), ..authority().certificate(other_host, 0) }),
        ("another validity", Certificate { validity: in_future(good.validity), ..good.clone() }),
        ("over", certificate(91)),
        ("not yet", certificate(-1)),
        ("no certificate", Certificate { chain: "a chain".to_owned(), ..good.clone() }),
        ("no app", authority().certificate("nobody.localhost".parse().unwrap(), 0)),
    ]
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_edges_word_alone_replaces_no_certificate(pool: PgPool) {
    let platform = start(&pool).await;
    platform.create_app("shop").await;
    let (one, mut two) = (Agent::edge(&platform, "proxy-1").await, Agent::edge(&platform, "proxy-2").await);
    for (_, bad) in refused() {
        two.send(bad).await;
    }
    is_heard(&platform, &mut two, 1).await;
    assert!(two.known.stored.is_empty(), "{:?}", two.known.stored);

    let kept = certificate(2);
    one.send(kept.clone()).await;
    two.knows(|known| !known.stored.is_empty()).await;
    for (number, (what, bad)) in (2..).zip(refused()) {
        two.send(bad).await;
        is_heard(&platform, &mut two, number).await;
        assert_eq!(two.known.stored.keys().collect::<Vec<_>>(), [&host()], "{what}");
        assert_eq!(given(&mut two).await, kept, "{what}");
    }
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_edge_orders_for_apps_only_and_not_for_too_many_at_once(pool: PgPool) {
    let platform = start(&pool).await;
    platform.clock.stop();
    let (mut one, mut two) =
        (Agent::edge(&platform, "proxy-1").await, Agent::edge(&platform, "proxy-2").await);
    say(&one, &"nobody.localhost".parse().unwrap(), id(99), BEGIN).await;
    for number in 0..16 {
        is_heard(&platform, &mut one, number).await;
    }
    say(&one, &host(), id(100), BEGIN).await;
    say(&one, &"order-3.localhost".parse().unwrap(), id(3), OrderStep::Failed).await;
    one.knows(|known| !known.held_back.is_empty()).await;
    assert_eq!((ordered(&one), one.known.orders.len()), (None, 15));
    say(&two, &host(), id(101), BEGIN).await;
    two.knows(|known| known.orders.contains_key(&host())).await;
    assert_eq!(ordered(&two), Some(id(101)), "others may");
    is_heard(&platform, &mut one, 16).await;
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_certificate_that_was_forgotten_is_not_kept_again(pool: PgPool) {
    let platform = start(&pool).await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let kept = certificate(2);
    edge.send(kept.clone()).await;
    edge.knows(|known| !known.stored.is_empty()).await;
    let mut db = pool::begin(&pool).await.unwrap();
    certificates::forget(&mut db, &host()).await.unwrap();
    pool::notify(&mut db, changes::CERTIFICATES).await.unwrap();
    pool::commit(db).await.unwrap();
    edge.knows(|known| known.forgotten.get(&host()) == Some(&kept.validity.not_before_ms)).await;
    assert!(edge.known.stored.is_empty());
    for old in [kept, certificate(3)] {
        edge.send(old).await;
    }
    is_heard(&platform, &mut edge, 1).await;
    assert!(edge.known.stored.is_empty());
    say(&edge, &host(), id(1), BEGIN).await;
    edge.knows(|known| known.orders.contains_key(&host())).await;
    edge.send(certificate(1)).await;
    edge.knows(|known| known.stored.contains_key(&host())).await;
    platform.stop().await;
}
