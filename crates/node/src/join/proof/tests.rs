//! Both proofs, against values that were computed by other means, and against every change.

use super::*;
use proptest::prelude::*;
use wisehosting_domain::role::Role;

/// Alice of RFC 7748, section 6.1.
const TOKEN: &str = "whj_dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
/// Bob.
const CONTROL_PLANE: &str = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=";
const MACHINE: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";

fn keys() -> (JoinKey, JoinKey, PrivateKey) {
    let (token, own): (JoinToken, PrivateKey) = (TOKEN.parse().unwrap(), CONTROL_PLANE.parse().unwrap());
    let machine = machine();
    let of_machine = JoinKey::of_token(&token, &machine, &own.public_key());
    let of_control_plane = JoinKey::of_control_plane(&own, &token.verifier(), &machine.public_key());
    (of_machine.unwrap(), of_control_plane.unwrap(), own)
}

fn machine() -> PrivateKey {
    MACHINE.parse().unwrap()
}

fn who() -> Candidate {
    Candidate {
        role: Role::Worker,
        name: "worker-3".parse().unwrap(),
        public_key: machine().public_key(),
        api_key_sha256: [4; 32],
    }
}

fn answer() -> JoinAnswer {
    JoinAnswer {
        address: "10.50.0.128/24".parse().unwrap(),
        hub_address: "10.50.0.1".parse().unwrap(),
        hub_endpoint: "198.51.100.1:51821".parse().unwrap(),
        url: "http://10.50.0.1:8081".to_owned(),
        mtu: 1420,
        proof: [0; 32],
    }
}

fn refusal() -> Refusal {
    let [code, message, hint] = ["removed", "It was removed.", "Ask."].map(str::to_owned);
    Refusal { code, message, hint: Some(hint) }
}

/// A request and its answer, proved.
fn exchange() -> (JoinRequest, JoinAnswer) {
    let (of_machine, of_control_plane, _) = keys();
    let token: JoinToken = TOKEN.parse().unwrap();
    let request = of_machine.request(token.id(), vec![1; 56], [2; 32], &who());
    let mut answer = answer();
    answer.proof = of_control_plane.of_answer(&request, &answer);
    (request, answer)
}

#[test]
fn both_sides_come_to_what_others_compute() {
    let (of_machine, of_control_plane, _) = keys();
    let (request, answer) = exchange();
    assert_eq!(hex::encode(request.token_id), "300c9c9603b92a4b");
    assert_eq!(
        hex::encode(request.sealed_api_key_sha256),
        "328d217e76448909f6702872e88e96ad74e776f8bfe44be1fbca0971f64e820710cf7e03d4de81e7b8a455cec4535340"
    );
    assert_eq!(
        hex::encode(request.proof),
        "010d093f2c4c0a1770752396cde26759cac2804e582068db05a24d61884f542c"
    );
    assert_eq!(hex::encode(answer.proof), "8f570d9a8edb11b787c38f1fc7b612f45a3013031d8f14f8d5d521b50e17f747");
    let refused = of_control_plane.of_refusal(&request, &refusal());
    assert_eq!(hex::encode(refused), "143496b930301552f2bde1776399ec9088ed317467b8b36908e26b3211ae62b1");
    assert_eq!(of_control_plane.open(&request), Some(who()));
    assert_eq!(of_machine.open(&request), Some(who()));
    assert!(of_control_plane.proves_answer(&request, &answer) && of_machine.proves_answer(&request, &answer));
    assert!(of_machine.proves_refusal(&request, &refusal(), &refused));
}

#[test]
fn it_takes_token_and_private_key_or_verifier_and_private_key() {
    let (of_machine, _, own) = keys();
    let (request, answer) = exchange();
    let (token, machine): (JoinToken, PrivateKey) = (TOKEN.parse().unwrap(), machine());
    let (hub, of_machines) = (own.public_key(), machine.public_key());
    // Who has a copy of the database; who is in between and knows no verifier; who has another token; who has the token and not the
    // private key, such as one that has recorded the join: in the place of what it lacks it has a key of its own.
    let other = PrivateKey::generate();
    for key in [
        JoinKey::of_control_plane(&other, &token.verifier(), &of_machines),
        JoinKey::of_control_plane(&own, &other.public_key(), &of_machines),
        JoinKey::of_token(&JoinToken::generate(), &machine, &hub),
        JoinKey::of_token(&token, &other, &hub),
    ] {
        let key = key.unwrap();
        assert!(key.open(&request).is_none() && !key.proves_answer(&request, &answer));
        let forged = JoinAnswer { proof: key.of_answer(&request, &answer), ..answer.clone() };
        assert!(!of_machine.proves_answer(&request, &forged));
        let forged = key.of_refusal(&request, &refusal());
        assert!(!of_machine.proves_refusal(&request, &refusal(), &forged));
    }
    // Keys that make every secret zero, so that nobody needs the private key.
    let zero = PublicKey::from_bytes([0; 32]);
    assert!(JoinKey::of_token(&token, &machine, &zero).is_none());
    assert!(JoinKey::of_control_plane(&own, &token.verifier(), &zero).is_none());
}

#[test]
fn a_listener_sees_no_hash_of_the_api_key() {
    let (key, _, _) = keys();
    let token: JoinToken = TOKEN.parse().unwrap();
    let request = |nonce| key.request(token.id(), vec![1; 56], [nonce; 32], &who());
    let text = serde_json::to_string(&request(2)).unwrap();
    assert!(!text.contains(&hex::encode(who().api_key_sha256)), "{text}");
    assert_ne!(request(2).sealed_api_key_sha256, request(3).sealed_api_key_sha256);
}

#[test]
fn a_proof_is_for_its_own_purpose() {
    let (key, _, _) = keys();
    let (request, answer) = exchange();
    let reflected = JoinAnswer { proof: request.proof, ..answer.clone() };
    assert!(!key.proves_answer(&request, &reflected));
    let reflected = JoinRequest { proof: answer.proof, ..request.clone() };
    assert!(key.open(&reflected).is_none());
    assert!(!key.proves_refusal(&request, &refusal(), &answer.proof));
    assert!(!key.proves_refusal(&request, &refusal(), &[]));
    let other = key.request(request.token_id, vec![1; 56], [9; 32], &who());
    assert!(!key.proves_answer(&other, &answer), "an answer to another request");
    let refused = key.of_refusal(&request, &refusal());
    assert!(!key.proves_refusal(&other, &refusal(), &refused), "a refusal of another request");
    let changed = Refusal { hint: None, ..refusal() };
    assert!(!key.proves_refusal(&request, &changed, &refused));
}

#[test]
fn a_token_is_text_and_back_and_never_printed() {
    use secrecy::ExposeSecret as _;
    let token = JoinToken::generate();
    let text = token.expose();
    let back: JoinToken = text.expose_secret().parse().unwrap();
    assert_eq!((back.verifier(), back.id()), (token.verifier(), token.id()));
    assert!(!format!("{token:?}").contains(&text.expose_secret()[4..]));
    let (_, without) = text.expose_secret().split_at(4);
    for bad in ["", "whj_", without, "wht_AAAA"] {
        let error = bad.parse::<JoinToken>().unwrap_err().to_string();
        assert!(bad.len() < 6 || !error.contains(bad), "{error}");
    }
}

/// Another request than the one that was proved.
fn changed_request() -> impl Strategy<Value = JoinRequest> {
    let (request, _) = exchange();
    (0..8_u8, any::<prop::sample::Index>(), 1..=u8::MAX).prop_map(move |(field, at, by)| {
        let mut changed = request.clone();
        let flip = |bytes: &mut [u8]| {
            let at = at.index(bytes.len());
            bytes[at] ^= by;
        };
        match field {
            0 => flip(&mut changed.token_id),
            1 => flip(&mut changed.challenge),
            2 => flip(&mut changed.nonce),
            3 => flip(&mut changed.sealed_api_key_sha256),
            4 => flip(&mut changed.proof),
            5 => {
                let mut key = *changed.public_key.as_bytes();
                flip(&mut key);
                changed.public_key = PublicKey::from_bytes(key);
            }
            6 => changed.role = Role::Edge,
            _ => changed.name = format!("worker-3{by}").parse().unwrap(),
        }
        changed
    })
}

/// Another answer than the one that was proved.
fn changed_answer() -> impl Strategy<Value = JoinAnswer> {
    let (_, answer) = exchange();
    (0..6_u8, any::<prop::sample::Index>(), 1..=u8::MAX).prop_map(move |(field, at, by)| {
        let mut changed = answer.clone();
        match field {
            0 => changed.address = format!("10.50.1.{by}/24").parse().unwrap(),
            1 => changed.hub_address = [10, 50, 2, by].into(),
            2 => changed.hub_endpoint.set_port(by.into()),
            3 => changed.url.push(char::from(by % 26 + b'a')),
            4 => changed.mtu += u32::from(by),
            _ => changed.proof[at.index(32)] ^= by,
        }
        changed
    })
}

proptest! {
    #[test]
    fn a_changed_request_is_refused(changed in changed_request()) {
        prop_assert!(keys().1.open(&changed).is_none());
    }

    #[test]
    fn a_changed_answer_is_refused(changed in changed_answer()) {
        prop_assert!(!keys().0.proves_answer(&exchange().0, &changed));
    }

    #[test]
    fn no_two_lists_of_fields_are_one_text(
        fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 2..4),
        at in any::<prop::sample::Index>(),
    ) {
        // A byte moves from one field to the next.
        let mut moved = fields.clone();
        let at = at.index(fields.len() - 1);
        prop_assume!(moved[at].pop().map(|byte| moved[at + 1].insert(0, byte)).is_some());
        let texts = |fields: &[Vec<u8>]| {
            let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            finish(hash(&[7; 32], "test", &fields))
        };
        prop_assert_ne!(texts(&fields), texts(&moved));
    }
}
