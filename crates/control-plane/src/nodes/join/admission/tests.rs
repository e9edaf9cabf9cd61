//! Every way in which a machine is let in or is not.

use super::*;
use time::Duration;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn request(name: &str, key: u8) -> Candidate {
    Candidate {
        role: Role::Worker,
        name: label(name),
        public_key: PublicKey::from_bytes([key; 32]),
        api_key_sha256: [key; 32],
    }
}

fn node(name: &str, key: u8, address: &str) -> JoinedNode {
    JoinedNode {
        name: label(name),
        role: Role::Worker,
        address: address.parse().unwrap(),
        public_key: [key; 32],
        api_key_sha256: [key; 32],
        approved_public_key: None,
        joined_at: NOW,
        removed_at: None,
    }
}

/// A pool of two addresses, of which .129 is declared; worker-1 is declared, too.
fn facts(joined: Vec<JoinedNode>) -> Facts {
    let token = JoinToken {
        id: [0; 8],
        verifier: [0; 32],
        role: Role::Worker,
        node: None,
        uses_left: 1,
        created_at: NOW,
        expires_at: NOW + Duration::HOUR,
    };
    let declared = Declared {
        names: [label("worker-1")].into(),
        keys: [PublicKey::from_bytes([1; 32])].into(),
        api_key_hashes: [[2; 32]].into(),
        networks: vec!["10.50.0.129/32".parse().unwrap()],
    };
    let [pool, mesh] = ["10.50.0.128/30", "10.50.0.1/24"].map(|text| text.parse().unwrap());
    Facts { declared, pool, mesh, joined, resting: BTreeSet::new(), token, now: NOW }
}

fn address(decided: Result<Admission, Refusal>) -> String {
    match decided.unwrap() {
        Admission::Known(address) => format!("known {address}"),
        Admission::New(node) => format!("new {}", node.address),
    }
}

#[test]
fn a_node_has_one_address_for_ever() {
    let facts = facts(Vec::new());
    assert_eq!(address(decide(&facts, &request("a", 7))), "new 10.50.0.130");
    let mut facts = Facts { joined: vec![node("a", 7, "10.50.0.130")], ..facts };
    facts.token.uses_left = 0;
    assert_eq!(address(decide(&facts, &request("a", 7))), "known 10.50.0.130", "that takes no use");
    assert_eq!(decide(&facts, &request("b", 8)), Err(Refusal::UsedUp));
    facts.token.uses_left = 1;
    assert_eq!(decide(&facts, &request("b", 8)), Err(Refusal::PoolExhausted(facts.pool)));
}

#[test]
fn another_key_needs_an_operators_word() {
    let mut facts = facts(vec![node("a", 7, "10.50.0.130")]);
    assert_eq!(decide(&facts, &request("a", 8)), Err(Refusal::OtherKey(label("a"))));
    let other_api_key = Candidate { api_key_sha256: [8; 32], ..request("a", 7) };
    assert_eq!(decide(&facts, &other_api_key), Err(Refusal::OtherKey(label("a"))));
    facts.joined[0].approved_public_key = Some([8; 32]);
    assert_eq!(decide(&facts, &request("a", 9)), Err(Refusal::OtherKey(label("a"))));
    let Ok(Admission::New(now)) = decide(&facts, &request("a", 8)) else { panic!("refused") };
    assert_eq!(now, node("a", 8, "10.50.0.130"));
    facts.token.uses_left = 0;
    assert_eq!(decide(&facts, &request("a", 8)), Err(Refusal::UsedUp));
    let as_edge = Candidate { role: Role::Edge, ..request("a", 7) };
    facts.token.role = Role::Edge;
    assert_eq!(decide(&facts, &as_edge), Err(Refusal::OtherRole(label("a"), Role::Worker)));
}

#[test]
fn a_key_is_one_nodes() {
    let facts = facts(vec![node("a", 7, "10.50.0.130")]);
    assert_eq!(decide(&facts, &request("b", 7)), Err(Refusal::KeyTaken));
    assert_eq!(decide(&facts, &request("b", 1)), Err(Refusal::KeyTaken), "declared");
    assert_eq!(decide(&facts, &request("worker-1", 7)), Err(Refusal::Declared(label("worker-1"))));
}

#[test]
fn an_api_key_is_one_nodes() {
    let facts = facts(vec![node("a", 7, "10.50.0.130")]);
    for taken in [7, 2] {
        let candidate = Candidate { api_key_sha256: [taken; 32], ..request("b", 8) };
        assert_eq!(decide(&facts, &candidate), Err(Refusal::ApiKeyTaken));
    }
}

#[test]
fn an_address_that_is_declared_since_is_given_up() {
    let mut facts = facts(vec![node("a", 7, "10.50.0.130")]);
    facts.pool = "10.50.0.128/29".parse().unwrap();
    facts.declared.networks.push("10.50.0.130/31".parse().unwrap());
    assert_eq!(address(decide(&facts, &request("a", 7))), "new 10.50.0.132");
}

#[test]
fn an_address_that_rests_is_nobody_elses() {
    let mut facts = facts(Vec::new());
    facts.resting.insert("10.50.0.130".parse().unwrap());
    assert_eq!(decide(&facts, &request("a", 7)), Err(Refusal::PoolExhausted(facts.pool)));
    facts.joined.push(node("a", 7, "10.50.0.130"));
    assert_eq!(address(decide(&facts, &request("a", 7))), "known 10.50.0.130", "who has it keeps it");
}

#[test]
fn who_was_removed_needs_a_newer_token_and_keeps_its_address_meanwhile() {
    let removed = JoinedNode { removed_at: Some(NOW), ..node("a", 7, "10.50.0.130") };
    let mut facts = facts(vec![removed]);
    assert_eq!(decide(&facts, &request("a", 7)), Err(Refusal::Removed(label("a"))));
    assert_eq!(decide(&facts, &request("a", 8)), Err(Refusal::Removed(label("a"))), "by any key");
    assert_eq!(decide(&facts, &request("b", 7)), Err(Refusal::Removed(label("a"))), "by any name");
    let with_api_key = Candidate { api_key_sha256: [7; 32], ..request("b", 8) };
    assert_eq!(decide(&facts, &with_api_key), Err(Refusal::Removed(label("a"))));
    facts.token.created_at = NOW + Duration::SECOND;
    assert_eq!(decide(&facts, &request("b", 8)), Err(Refusal::PoolExhausted(facts.pool)));
    assert_eq!(address(decide(&facts, &request("a", 8))), "new 10.50.0.130", "its own");
}

#[test]
fn a_token_is_good_for_what_it_says() {
    let mut facts = facts(Vec::new());
    facts.token.node = Some(label("b"));
    assert_eq!(decide(&facts, &request("a", 7)), Err(Refusal::ForAnother("the worker b".to_owned())));
    assert_eq!(address(decide(&facts, &request("b", 7))), "new 10.50.0.130");
    let as_edge = Candidate { role: Role::Edge, ..request("b", 7) };
    assert!(matches!(decide(&facts, &as_edge), Err(Refusal::ForAnother(_))));
    facts.now = facts.token.expires_at;
    assert_eq!(decide(&facts, &request("b", 7)), Err(Refusal::Expired));
}

#[test]
fn an_address_outside_of_a_changed_pool_is_given_up_with_the_key() {
    let mut facts = facts(vec![node("a", 7, "10.50.0.200")]);
    assert_eq!(address(decide(&facts, &request("a", 7))), "known 10.50.0.200");
    facts.joined[0].approved_public_key = Some([8; 32]);
    assert_eq!(address(decide(&facts, &request("a", 8))), "new 10.50.0.130");
}
