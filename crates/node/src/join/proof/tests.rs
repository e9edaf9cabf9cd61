//! Both proofs, against values that were computed by other means, and against every change.

use super::*;
use proptest::prelude::*;
use wisehosting_domain::role::Role;

/// Alice of RFC 7748, section 6.1.
const TOKEN: &str = "whj_dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
/// Bob.
const CONTROL_PLANE: &str = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=";

fn keys() -> (JoinKey, JoinKey, PrivateKey) {
    let (token, own): (JoinToken, PrivateKey) = (TOKEN.parse().unwrap(), CONTROL_PLANE.parse().unwrap());
    let of_machine = JoinKey::of_token(&token, &own.public_key());
    (of_machine, JoinKey::of_control_plane(&own, &token.verifier()), own)
}

fn request() -> JoinRequest {
    JoinRequest {
        token_id: TOKEN.parse::<JoinToken>().unwrap().id(),
        challenge: vec![1; 56],
        nonce: [2; 32],
        role: Role::Worker,
        name: "worker-3".parse().unwrap(),
        public_key: PublicKey::from_bytes([3; 32]),
        api_key_sha256: [4; 32],
        proof: [0; 32],
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

/// A request and its answer, proved.
fn exchange() -> (JoinRequest, JoinAnswer) {
    let (of_machine, of_control_plane, _) = keys();
    let mut request = request();
    request.proof = of_machine.of_request(&request);
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
        hex::encode(request.proof),
        "a25c2542b9c064b5fd0ea2bf21f0848c8e1bfa06538a16f22aefa256607f0869"
    );
    assert_eq!(hex::encode(answer.proof), "291f307b84fe9e97aaa6b1856f2d105336e8a3ce55f57fa4e56cad5c2b685c79");
    assert!(of_control_plane.proves_request(&request) && of_machine.proves_request(&request));
    assert!(of_control_plane.proves_answer(&request, &answer) && of_machine.proves_answer(&request, &answer));
}

#[test]
fn it_takes_the_token_or_verifier_and_private_key() {
    let (of_machine, _, own) = keys();
    let (request, answer) = exchange();
    let token: JoinToken = TOKEN.parse().unwrap();
    // Who has a copy of the database, and who is in between and knows no verifier.
    let of_copy = JoinKey::of_control_plane(&PrivateKey::generate(), &token.verifier());
    let of_network = JoinKey::of_control_plane(&own, &PrivateKey::generate().public_key());
    let of_another = JoinKey::of_token(&JoinToken::generate(), &own.public_key());
    for key in [of_copy, of_network, of_another] {
        assert!(!key.proves_request(&request) && !key.proves_answer(&request, &answer));
        let forged = JoinAnswer { proof: key.of_answer(&request, &answer), ..answer.clone() };
        assert!(!of_machine.proves_answer(&request, &forged));
    }
    // A key of the control plane's that makes every secret zero helps nobody who does not know the verifier.
    let zero = PublicKey::from_bytes([0; 32]);
    let blind = JoinKey::new(&PrivateKey::generate().public_key(), &[0; 32], &zero);
    assert!(
        !JoinKey::of_token(&token, &zero)
            .proves_request(&JoinRequest { proof: blind.of_request(&request), ..request })
    );
}

#[test]
fn a_proof_is_for_its_own_purpose() {
    let (key, _, _) = keys();
    let (request, answer) = exchange();
    let reflected = JoinAnswer { proof: request.proof, ..answer.clone() };
    assert!(!key.proves_answer(&request, &reflected));
    let reflected = JoinRequest { proof: answer.proof, ..request.clone() };
    assert!(!key.proves_request(&reflected));
    let other = JoinRequest { nonce: [9; 32], ..request.clone() };
    let other = JoinRequest { proof: key.of_request(&other), ..other };
    assert!(!key.proves_answer(&other, &answer), "an answer to another request");
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
            3 => flip(&mut changed.api_key_sha256),
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
        prop_assert!(!keys().1.proves_request(&changed));
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
