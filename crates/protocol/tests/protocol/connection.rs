//! Two sides of a connection talk to each other; everything recorded elsewhere is refused.

use uuid::Uuid;
use wisehosting_domain::id::JobId;
use wisehosting_protocol::{
    CLOCK_SKEW_MS_MAX, MESSAGE_BYTES_MAX,
    connection::{AgentConnection, HubConnection, OpenError},
    envelope::EnvelopeError,
    key::SigningKey,
    message::{AgentMessage, DecodeError, HubMessage, JobCancel},
    payload::{ErrorReport, JobRef, RoutesDrained},
    window::SequenceError,
};

const NOW_MS: u64 = 1_790_000_000_000;
const ID: [u8; 16] = [7; 16];

fn key() -> SigningKey {
    SigningKey::derive("correct horse battery staple")
}

/// A connected pair; `n` stands for the random numbers of this connection.
fn pair(n: u64) -> (AgentConnection, HubConnection) {
    let (agent_starts, hub_starts) = (n * 1_000_000, n * 1_000_000 + 500_000);
    (
        AgentConnection::new(key(), agent_starts, hub_starts),
        HubConnection::new(key(), hub_starts, agent_starts),
    )
}

fn error(text: &str) -> ErrorReport {
    ErrorReport { message: text.to_owned() }
}

#[test]
fn both_directions_carry_messages() {
    let (mut agent, mut hub) = pair(1);
    let up = AgentMessage::from(RoutesDrained { generation: 4 });
    let down = HubMessage::from(JobCancel(JobRef { job_id: JobId(Uuid::from_u128(9)) }));
    for _ in 0..3 {
        assert_eq!(hub.open(&agent.seal(&up, ID, NOW_MS), NOW_MS).expect("up"), up);
        assert_eq!(agent.open(&hub.seal(&down, ID, NOW_MS), NOW_MS).expect("down"), down);
    }
}

#[test]
fn the_signed_bytes_are_as_documented() {
    let (mut agent, _) = pair(1);
    let text = agent.seal(&AgentMessage::from(RoutesDrained { generation: 4 }), ID, NOW_MS);
    let expected = concat!(
        r#"{"t":"routes_drained","i":"07070707070707070707070707070707","s":1000000,"ts":1790000000000,"#,
        r#""p":{"generation":4},"h":"3a092b15f1e380964e0727b2bc521629bf1c42188503a5086e2c9b40f053904d"}"#
    );
    assert_eq!(text, expected);
}

#[test]
fn a_recording_is_refused_everywhere_else() {
    let (mut agent, mut hub) = pair(1);
    let recorded = agent.seal(&error("x").into(), ID, NOW_MS);
    hub.open(&recorded, NOW_MS).expect("the first time");

    let again = hub.open(&recorded, NOW_MS);
    assert!(matches!(again, Err(OpenError::Sequence(SequenceError::Replayed(_)))), "{again:?}");
    let back = agent.open(&recorded, NOW_MS);
    assert!(matches!(back, Err(OpenError::Sequence(_))), "{back:?}");
    for n in [0, 2] {
        let other = pair(n).1.open(&recorded, NOW_MS);
        assert!(matches!(other, Err(OpenError::Sequence(_))), "{other:?}");
    }
}

#[test]
fn a_type_belongs_to_its_direction() {
    let mut agent = AgentConnection::new(key(), 0, 0);
    let mut other_agent = AgentConnection::new(key(), 0, 0);
    let text = agent.seal(&RoutesDrained { generation: 4 }.into(), ID, NOW_MS);
    let refused = other_agent.open(&text, NOW_MS);
    assert!(matches!(refused, Err(OpenError::Decode(DecodeError::UnknownType(_)))), "{refused:?}");
}

#[test]
fn another_key_another_time_or_another_size_is_refused() {
    let (mut agent, mut hub) = pair(1);
    let text = agent.seal(&error("x").into(), ID, NOW_MS);
    let mut stranger = HubConnection::new(SigningKey::derive("guess"), 0, 1_000_000);
    assert!(matches!(stranger.open(&text, NOW_MS), Err(OpenError::Envelope(EnvelopeError::Signature))));
    for now_ms in [NOW_MS - CLOCK_SKEW_MS_MAX - 1, NOW_MS + CLOCK_SKEW_MS_MAX + 1] {
        assert!(matches!(hub.open(&text, now_ms), Err(OpenError::Envelope(EnvelopeError::Clock(_)))));
    }
    let large = agent.seal(&error(&"x".repeat(MESSAGE_BYTES_MAX)).into(), ID, NOW_MS);
    assert!(matches!(hub.open(&large, NOW_MS), Err(OpenError::Envelope(EnvelopeError::TooLarge(_)))));
    hub.open(&text, NOW_MS).expect("a refused text does not move the window");
}

#[test]
fn an_unknown_field_is_refused() {
    let payload =
        serde_json::value::RawValue::from_string(r#"{"generation":4,"extra":1}"#.to_owned()).expect("JSON");
    let text = wisehosting_protocol::envelope::seal(&key(), "routes_drained", ID, 5, NOW_MS, &payload);
    let refused = HubConnection::new(key(), 0, 5).open(&text, NOW_MS);
    assert!(matches!(refused, Err(OpenError::Decode(DecodeError::Payload { .. }))), "{refused:?}");
}
