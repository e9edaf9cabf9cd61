//! Two sides of a connection talk to each other; everything recorded elsewhere is refused.

use uuid::Uuid;
use wisehosting_domain::id::{DeploymentId, InstanceId, JobId};
use wisehosting_protocol::{
    CLOCK_SKEW_MS_MAX, MESSAGE_BYTES_MAX,
    connection::{AgentConnection, HubConnection, OpenError},
    envelope::{Envelope, EnvelopeError},
    key::SigningKey,
    message::{AgentMessage, DecodeError, HubMessage, JobCancel},
    payload::{
        BuildLog, CURSOR_BYTES_MAX, ErrorReport, JobRef, LINES_MAX, LogLine, RoutesDrained, RuntimeLog,
        Stream,
    },
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
fn an_envelope_may_be_written_in_another_way() {
    let (mut agent, mut hub) = pair(1);
    let message = AgentMessage::from(RoutesDrained { generation: 4 });
    let text = agent.seal(&message, ID, NOW_MS);
    let Envelope { t, i, s, ts, p, h } = Envelope::read(&text).expect("an envelope");
    let other = format!(r#" {{ "h" : "{h}", "p" :  {p} , "ts":{ts}, "s":{s}, "i":"{i}","t":"{t}" }} "#);
    assert_eq!(Envelope::read_plain(&other), None);
    assert_eq!(hub.open(&other, NOW_MS).expect("the same"), message);
    let again = hub.open(&text, NOW_MS);
    assert!(matches!(again, Err(OpenError::Sequence(SequenceError::Replayed(_)))), "{again:?}");
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
fn a_log_has_a_limit_in_every_message() {
    let line = LogLine { at: "2026-09-21T14:26:39Z".to_owned(), stream: Stream::Stdout, text: String::new() };
    let log = |lines, after, cursor| RuntimeLog {
        instance_id: InstanceId(Uuid::nil()),
        after: Some("c".repeat(after)),
        cursor: Some("c".repeat(cursor)),
        lines: vec![line.clone(); lines],
    };
    let build_log = |lines| BuildLog {
        deployment_id: DeploymentId(Uuid::nil()),
        first_line: 0,
        lines: vec![line.clone(); lines],
    };
    for (message, is_taken) in [
        (AgentMessage::from(log(LINES_MAX, CURSOR_BYTES_MAX, CURSOR_BYTES_MAX)), true),
        (log(LINES_MAX + 1, 1, 1).into(), false),
        (log(0, CURSOR_BYTES_MAX + 1, 1).into(), false),
        (log(0, 1, CURSOR_BYTES_MAX + 1).into(), false),
        (build_log(LINES_MAX).into(), true),
        (build_log(LINES_MAX + 1).into(), false),
    ] {
        let (mut agent, mut hub) = pair(1);
        match hub.open(&agent.seal(&message, ID, NOW_MS), NOW_MS) {
            Ok(opened) => assert!(is_taken && opened == message),
            Err(error) => assert!(
                !is_taken && matches!(error, OpenError::Decode(DecodeError::Payload { .. })),
                "{error:?}"
            ),
        }
    }
}
