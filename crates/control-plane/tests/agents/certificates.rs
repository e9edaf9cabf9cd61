//! Certificates that edges share: one orders at a time, all show its challenge, each gets what it lacks.

use std::sync::Arc;

use sqlx::PgPool;
use time::Duration;
use uuid::Uuid;
use wisehosting_control_plane::config::EdgeConfig;
use wisehosting_domain::{
    certificate::{Challenge, ChallengeKind},
    id::JobId,
    name::Hostname,
};
use wisehosting_node::channel::Role;
use wisehosting_protocol::{
    key::SigningKey,
    message::HubMessage,
    payload::{
        Certificate, CertificateGet, CertificateOrder, ChallengesShown, Heartbeat, OrderStep, Validity,
    },
};
use wisehosting_store::MIGRATOR;

use crate::{
    agent::Agent,
    platform::{MASTER_KEY, Platform, api_key, label},
    sealing::{NEXT_KEY, key_id, start as start_with_keys, tables_with},
};

const BEGIN: OrderStep = OrderStep::Begin { held_not_before_ms: None };

fn host() -> Hostname {
    "blog.example.org".parse().unwrap()
}

/// A control plane that knows a second edge.
async fn start(pool: &PgPool) -> Platform {
    Platform::start_with(pool.clone(), |state| {
        let key = SigningKey::derive(&api_key("proxy-2"));
        let api_key_sha256 = wisehosting_control_plane::config::KeyHash(*key.as_bytes());
        let address = "10.50.0.31".parse().unwrap();
        let edge = EdgeConfig { name: label("proxy-2"), address, api_key_sha256 };
        Arc::get_mut(&mut state.config).unwrap().edges.push(edge);
    })
    .await
}

fn id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

async fn say(edge: &Agent, host: &Hostname, order_id: JobId, step: OrderStep) {
    edge.send(CertificateOrder { host: host.clone(), order_id, step }).await;
}

/// Has the edge ask for an order that nobody contests: what it said before has been heard then.
async fn is_heard(edge: &mut Agent, number: u128) {
    let host: Hostname = format!("order-{number}.example.org").parse().unwrap();
    say(edge, &host, id(number), BEGIN).await;
    edge.knows(|known| known.orders.contains_key(&host)).await;
}

/// Which order the edge knows of.
fn ordered(edge: &Agent) -> Option<JobId> {
    edge.known.orders.get(&host()).map(|order| order.order_id)
}

/// A certificate from the second `from` on, for 90 days.
fn certificate(from: u64) -> Certificate {
    let validity = Validity { not_before_ms: from * 1_000, not_after_ms: (from + 90 * 86_400) * 1_000 };
    let (chain, key) = (format!("a chain of {from}"), format!("a key of {from}").as_str().into());
    Certificate { host: host(), validity, chain, key }
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
    is_heard(&mut two, 12).await;
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
    is_heard(&mut one, 11).await;
    assert!(!one.known.orders[&host()].shown, "one edge does not show it yet");
    two.send(ChallengesShown { tokens: vec!["other".to_owned(), token] }).await;
    for edge in [&mut one, &mut two] {
        edge.knows(|known| known.orders[&host()].shown).await;
    }

    let now = u64::try_from(platform.clock_s()).unwrap();
    one.send(certificate(now)).await;
    for edge in [&mut one, &mut two] {
        edge.knows(|known| known.stored.contains_key(&host())).await;
        assert_eq!(edge.known.stored[&host()], certificate(now).validity);
        assert_eq!(ordered(edge), None);
        assert_eq!(given(edge).await, certificate(now));
    }
    assert_eq!(tables_with(&pool, "a chain of").await, ["certificates"]);
    assert_eq!(tables_with(&pool, "a key of").await, Vec::<String>::new());

    // Who lacks the certificate has nothing to order; who has it may order the next one.
    say(&two, &host(), id(3), BEGIN).await;
    two.send(certificate(now - 1)).await;
    is_heard(&mut two, 13).await;
    assert_eq!((ordered(&two), given(&mut two).await), (None, certificate(now)), "an older one is not kept");
    say(&two, &host(), id(4), OrderStep::Begin { held_not_before_ms: Some(now * 1_000) }).await;
    two.knows(|known| known.orders.contains_key(&host())).await;
    assert_eq!(ordered(&two), Some(id(4)));
    platform.stop().await;
}

async fn lease_s(pool: &PgPool) -> Option<i64> {
    let query =
        "SELECT extract(epoch FROM lease_until)::int8 FROM certificates WHERE host = 'blog.example.org'";
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
    is_heard(&mut two, 12).await;
    assert_eq!(ordered(&two), Some(id(1)), "it has been renewed");
    advance(2);
    two.knows(|known| !known.orders.contains_key(&host())).await;
    say(&two, &host(), id(2), BEGIN).await;
    two.knows(|known| known.orders.contains_key(&host())).await;
    assert_eq!(ordered(&two), Some(id(2)));

    // A new connection that lists the order goes on with it; one that does not has lost it.
    drop(two);
    let mut two = Agent::connect(&platform, Role::Edge, "proxy-2", &[id(2)]).await;
    is_heard(&mut two, 22).await;
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
        is_heard(other, 10 + turn as u128).await;
        assert_eq!(ordered(other), None);
        advance(wait - Duration::SECOND);
        is_heard(other, 20 + turn as u128).await;
        assert_eq!(other.known.held_back, [host()]);
        advance(Duration::SECOND);
        for edge in &mut edges {
            edge.knows(|known| known.held_back.is_empty()).await;
        }
    }
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_key_is_sealed_anew_or_given_again(pool: PgPool) {
    let platform = start_with_keys(&pool, &[MASTER_KEY]).await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    let kept = certificate(u64::try_from(platform.clock_s()).unwrap());
    edge.send(kept.clone()).await;
    edge.knows(|known| !known.stored.is_empty()).await;
    platform.stop().await;
    let sealed_by = async || -> Option<String> {
        sqlx::query_scalar("SELECT key ->> 'k' FROM certificates").fetch_one(&pool).await.unwrap()
    };
    assert_eq!(sealed_by().await, Some(key_id(MASTER_KEY)));

    let platform = start_with_keys(&pool, &[NEXT_KEY, MASTER_KEY]).await;
    assert_eq!(sealed_by().await, Some(key_id(NEXT_KEY)));
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    edge.knows(|known| !known.stored.is_empty()).await;
    assert_eq!(given(&mut edge).await, kept);
    platform.stop().await;

    let platform = start_with_keys(&pool, &[MASTER_KEY]).await;
    let mut edge = Agent::edge(&platform, "proxy-1").await;
    edge.knows(|known| known.stored.is_empty()).await;
    edge.send(kept).await;
    edge.knows(|known| !known.stored.is_empty()).await;
    platform.stop().await;
}
