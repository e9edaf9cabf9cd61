//! Conversations between two sessions, over a network that delays, fills up and is cut, on a clock of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use proptest::prelude::*;
use wisehosting_protocol::{
    HEADER_START, HEADER_VERSION, MESSAGE_BYTES_MAX, VERSION,
    connection::{AgentConnection, HubConnection, START_LIMIT},
    handshake::{Refusal, Request},
    key::SigningKey,
    message::{AgentMessage, HubMessage},
    payload::{ErrorReport, Register, Registered, RoutesDrained},
    session::{
        AgentSession, Close, End, Frame, HubSession, Moment, Received, Session, Speech, Status, Unsent,
    },
    timing::Timing,
};

const CASES: u32 = 100_000;
const ID: [u8; 16] = [7; 16];
const LATENCY_MAX_MS: u64 = 2_000;
/// So short that no message waits for longer than the clocks may differ.
const BUSY_MAX_MS: u64 = 30_000;

fn at(ms: u64) -> Moment {
    Moment { elapsed: Duration::from_millis(ms), unix_ms: 1_790_000_000_000 + ms }
}

fn ms(of: Duration) -> u64 {
    of.as_millis().try_into().expect("not that long")
}

fn register() -> Register {
    Register { version: "0.1.0".to_owned(), capacity: None, running_jobs: Vec::new() }
}

fn registered() -> Registered {
    Registered { version: "0.1.0".to_owned(), heartbeat_interval_ms: 10_000 }
}

fn up(n: usize) -> AgentMessage {
    RoutesDrained { generation: n as u64 }.into()
}

fn down(n: usize) -> HubMessage {
    ErrorReport { message: n.to_string() }.into()
}

fn connections() -> (AgentConnection, HubConnection) {
    let key = SigningKey::derive("correct horse battery staple");
    let request = Request { version: Some(VERSION.into()), start: Some(500) };
    let hub = request.accept(key.clone(), 9_000).expect("it is well made");
    (AgentConnection::new(key, 9_000, 500), hub)
}

fn sessions() -> (AgentSession, HubSession) {
    let (agent, hub) = connections();
    let timing = Timing::default();
    (
        AgentSession::registering(agent, timing, register(), at(0)),
        HubSession::welcoming(hub, timing, registered(), at(0)),
    )
}

/// Two sides that have registered and welcomed.
fn open_sessions() -> (AgentSession, HubSession) {
    let (mut agent, mut hub) = sessions();
    let text = text(agent.transmit(ID, at(0)));
    agent.written(at(0));
    assert_eq!(hub.receive(Received::Text(&text), at(0)).expect("register"), Some(register().into()));
    let text = self::text(hub.transmit(ID, at(0)));
    hub.written(at(0));
    assert_eq!(agent.receive(Received::Text(&text), at(0)).expect("registered"), Some(registered().into()));
    (agent, hub)
}

fn text(frame: Option<Frame>) -> String {
    match frame {
        Some(Frame::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_said_before_the_registration() {
    let (mut agent, mut hub) = sessions();
    assert_eq!(agent.send(&up(1), ID, at(0)), Err(Unsent::NotNow));
    assert_eq!(hub.send(&down(1), ID, at(0)), Err(Unsent::NotNow));
    assert_eq!(hub.transmit(ID, at(5_000)), None, "the agent speaks first");

    let early = connections().0.seal(&up(1), ID, at(0).unix_ms);
    let end = hub.receive(Received::Text(&early), at(0)).expect_err("it comes too early");
    assert!(matches!(end, End::Unopened(_)), "{end:?}");
    assert_eq!(end.status(), Some(Status::Policy));
    assert_eq!(hub.deadline(), None, "it is over");
}

#[test]
fn nobody_registers_twice() {
    let (mut connection, _) = connections();
    let (mut hub, now) = (sessions().1, at(0));
    let again = [(); 2].map(|()| connection.seal(&register().into(), ID, now.unix_ms));
    hub.receive(Received::Text(&again[0]), now).expect("the first time");
    let end = hub.receive(Received::Text(&again[1]), now).expect_err("it is known");
    assert!(matches!(end, End::Reopened("the agent")), "{end:?}");
}

#[test]
fn an_agent_learns_why_it_is_not_welcome() {
    let (mut agent, mut hub) = sessions();
    let _ = agent.transmit(ID, at(0));
    hub.close(Status::Again, "come back later".to_owned());
    let farewell = text(hub.transmit(ID, at(0)));
    let end = agent.receive(Received::Text(&farewell), at(0)).expect_err("it is not welcome");
    assert_eq!(end.to_string(), "the control plane refuses the registration: come back later");
}

#[test]
fn an_agent_of_another_version_is_refused_in_a_sentence() {
    let refusal = |version, start| {
        Request { version, start }.accept(SigningKey::derive("key"), 1).expect_err("it is refused")
    };
    let older = refusal(Some(u64::from(VERSION) - 1), None).to_string();
    assert!(older.starts_with("The agent is too old:"), "{older}");
    let newer = refusal(Some(u64::from(VERSION) + 1), Some(1)).to_string();
    assert!(newer.starts_with("The control plane is too old:"), "{newer}");
    let current = Some(u64::from(VERSION));
    assert_eq!(refusal(None, Some(1)), Refusal::Header(HEADER_VERSION));
    assert_eq!(refusal(current, None), Refusal::Header(HEADER_START));
    assert_eq!(refusal(current, Some(START_LIMIT)), Refusal::Header(HEADER_START));
}

#[test]
fn a_farewell_is_a_message_and_a_close_and_waits_for_nobody() {
    let (mut agent, mut hub) = open_sessions();
    // The network has not taken what came before.
    hub.send(&down(1), ID, at(0)).expect("it is open");
    hub.close(Status::Replaced, "a newer one".to_owned());
    assert_eq!(hub.send(&down(2), ID, at(0)), Err(Unsent::NotNow));
    let farewell = text(hub.transmit(ID, at(1_000)));
    assert_eq!(hub.transmit(ID, at(1_000)), None, "one after the other");
    hub.written(at(1_000));
    let close = Close { code: 4001, reason: "a newer one".to_owned() };
    assert_eq!(hub.transmit(ID, at(1_000)), Some(Frame::Close(close.clone())));
    assert_eq!(hub.deadline(), Some(Duration::from_secs(11)));
    assert!(matches!(hub.tick(at(11_000)), Err(End::Stuck)));
    assert_eq!(hub.deadline(), None);

    let error = agent.receive(Received::Text(&farewell), at(1_000)).expect("a message as others");
    assert_eq!(error, Some(ErrorReport { message: "a newer one".to_owned() }.into()));
    let end = agent.receive(Received::Closed(Some(close)), at(1_000)).expect_err("the end");
    assert_eq!(end.to_string(), "the control plane closed it: a newer one (4001)");
}

#[test]
fn a_close_has_room_for_so_much_of_a_sentence_and_the_message_for_all() {
    let (mut agent, mut hub) = open_sessions();
    // 123 bytes end within a letter.
    let sentence = format!("x{}", "ä".repeat(200));
    hub.close(Status::Again, sentence.clone());
    let farewell = text(hub.transmit(ID, at(0)));
    hub.written(at(0));
    let heard = agent.receive(Received::Text(&farewell), at(0)).expect("an error");
    assert_eq!(heard, Some(ErrorReport { message: sentence }.into()));
    let reason = format!("x{}", "ä".repeat(61));
    assert_eq!(reason.len(), 123);
    assert_eq!(hub.transmit(ID, at(0)), Some(Frame::Close(Close { code: 1013, reason })));
}

#[test]
fn what_keeps_the_caller_busy_is_nobodys_silence() {
    let (_, mut hub) = open_sessions();
    assert!(hub.tick(at(3_600_000)).is_ok(), "it carries out the registration");
    hub.listen(at(3_600_000));
    assert!(hub.receive(Received::Sign, at(3_610_000)).expect("a pong").is_none());
    assert!(hub.tick(at(3_669_999)).is_ok());
    assert!(matches!(hub.tick(at(3_670_000)), Err(End::Silent("the agent"))));
}

#[test]
fn a_message_that_is_too_large_takes_no_number() {
    let (mut agent, mut hub) = open_sessions();
    let large = AgentMessage::from(ErrorReport { message: "x".repeat(MESSAGE_BYTES_MAX) });
    for _ in 0..300 {
        assert!(matches!(agent.send(&large, ID, at(0)), Err(Unsent::TooLarge(_))));
    }
    let small = text(agent.send(&up(1), ID, at(0)).ok());
    assert_eq!(hub.receive(Received::Text(&small), at(0)).expect("the next number"), Some(up(1)));
}

#[test]
fn bytes_are_refused() {
    let end = open_sessions().1.receive(Received::Bytes, at(0)).expect_err("not text");
    assert_eq!(
        (end.status(), &*end.to_string()),
        (Some(Status::Unsupported), "the agent sent bytes instead of text")
    );
}

/// What travels. A WebSocket answers a ping when somebody reads it.
#[derive(Clone, Debug)]
enum Packet {
    Text(String),
    Ping,
    Pong,
    End(Option<Close>),
}

/// One direction of a network.
#[derive(Debug, Default)]
struct Way {
    travelling: VecDeque<(u64, Packet)>,
    arrives_last_ms: u64,
    /// From when on nothing arrives.
    cut_ms: Option<u64>,
    /// So many frames more are taken then.
    takes: usize,
    delays_ms: Vec<u64>,
}

impl Way {
    /// Whether the network takes it.
    fn offer(&mut self, now_ms: u64, packet: Packet) -> bool {
        if self.cut_ms.is_some_and(|cut_ms| cut_ms <= now_ms) {
            let is_taken = self.takes > 0;
            self.takes = self.takes.saturating_sub(1);
            return is_taken;
        }
        self.delays_ms.rotate_left(1);
        self.arrives_last_ms = self.arrives_last_ms.max(now_ms + self.delays_ms[0]);
        self.travelling.push_back((self.arrives_last_ms, packet));
        true
    }

    fn arrives_at(&self) -> Option<u64> {
        let (at_ms, _) = self.travelling.front()?;
        Some(*at_ms).filter(|at_ms| self.cut_ms.is_none_or(|cut_ms| *at_ms < cut_ms))
    }
}

/// A session and its caller.
struct Side<Out, In> {
    session: Session<Out, In>,
    /// What the caller says, and when.
    script: BTreeMap<(u64, usize), Out>,
    said: Vec<Out>,
    heard: Vec<In>,
    /// How long the caller is busy with each message.
    busy_ms: u64,
    busy_until_ms: u64,
    ended: Option<(u64, End)>,
}

impl<Out: Speech + Clone + PartialEq, In: Speech + Clone> Side<Out, In> {
    fn new(
        session: Session<Out, In>,
        opening: Out,
        script: BTreeMap<(u64, usize), Out>,
        busy_ms: u64,
    ) -> Self {
        Self {
            session,
            script,
            said: vec![opening],
            heard: Vec::new(),
            busy_ms,
            busy_until_ms: 0,
            ended: None,
        }
    }

    /// Does all that there is to do now.
    fn go_on(&mut self, now_ms: u64, comes: &mut Way, goes: &mut Way) {
        if self.ended.is_some() {
            return;
        }
        let end = self.read(now_ms, comes, goes).and_then(|()| self.session.tick(at(now_ms))).err();
        if let Some(end) = end {
            if let Some(status) = end.status() {
                self.session.close(status, end.to_string());
                self.said.push(ErrorReport { message: end.to_string() }.into());
                self.flush(now_ms, goes);
            }
            // The other side sees that, if the network lets it.
            goes.offer(now_ms, Packet::End(None));
            self.ended = Some((now_ms, end));
            return;
        }
        self.flush(now_ms, goes);
        while self.session.can_send() {
            let Some(entry) = self.script.first_entry().filter(|entry| entry.key().0 <= now_ms) else {
                break;
            };
            let message = entry.remove();
            let frame = self.session.send(&message, ID, at(now_ms)).expect("it is open");
            self.said.push(message);
            self.write(now_ms, frame, goes);
        }
    }

    fn read(&mut self, now_ms: u64, comes: &mut Way, goes: &mut Way) -> Result<(), End> {
        while self.busy_until_ms <= now_ms {
            self.session.listen(at(now_ms));
            if comes.arrives_at().is_none_or(|at_ms| now_ms < at_ms) {
                break;
            }
            let Some((_, packet)) = comes.travelling.pop_front() else { break };
            let frame = match &packet {
                Packet::Text(text) => Received::Text(text),
                Packet::End(close) => Received::Closed(close.clone()),
                Packet::Ping => {
                    goes.offer(now_ms, Packet::Pong);
                    Received::Sign
                }
                Packet::Pong => Received::Sign,
            };
            if let Some(message) = self.session.receive(frame, at(now_ms))? {
                self.heard.push(message);
                self.busy_until_ms = now_ms + self.busy_ms;
            }
        }
        Ok(())
    }

    fn flush(&mut self, now_ms: u64, goes: &mut Way) {
        while let Some(frame) = self.session.transmit(ID, at(now_ms)) {
            self.write(now_ms, frame, goes);
        }
    }

    fn write(&mut self, now_ms: u64, frame: Frame, goes: &mut Way) {
        let packet = match frame {
            Frame::Text(text) => Packet::Text(text),
            Frame::Ping => Packet::Ping,
            Frame::Close(close) => Packet::End(Some(close)),
        };
        if goes.offer(now_ms, packet) {
            self.session.written(at(now_ms));
        }
    }

    /// When there is something to do next.
    fn next_ms(&self, now_ms: u64, comes: &Way) -> Option<u64> {
        let says = self.script.keys().next().filter(|_| self.session.can_send()).map(|(at_ms, _)| *at_ms);
        let hears = comes.arrives_at().map(|at_ms| at_ms.max(self.busy_until_ms));
        let is_free = Some(self.busy_until_ms).filter(|until_ms| *until_ms > now_ms);
        let deadline = self.session.deadline().map(ms);
        let next = [says, hears, is_free, deadline].into_iter().flatten().min();
        if self.ended.is_some() { None } else { next }
    }
}

/// A conversation as it is to go.
#[derive(Clone, Debug)]
struct Plan {
    /// When each side says something.
    up_ms: Vec<u64>,
    down_ms: Vec<u64>,
    delays_ms: Vec<u64>,
    /// How long the agent and the hub are busy with a message.
    busy_ms: [u64; 2],
    /// When the way up is cut and the way down, and what is still taken then.
    cuts_ms: [Option<u64>; 2],
    takes: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let times = || prop::collection::vec(0..120_000u64, 0..6);
    let delay = prop_oneof![0..60u64, 0..LATENCY_MAX_MS];
    let busy = || prop_oneof![3 => Just(0), 1 => 0..1_000u64, 1 => 0..BUSY_MAX_MS];
    let cut = || prop_oneof![Just(None), (0..150_000u64).prop_map(Some), (0..3_000u64).prop_map(Some)];
    (times(), times(), prop::collection::vec(delay, 1..8), [busy(), busy()], [cut(), cut()], 0..20usize)
        .prop_map(|(up_ms, down_ms, delays_ms, busy_ms, cuts_ms, takes)| Plan {
            up_ms,
            down_ms,
            delays_ms,
            busy_ms,
            cuts_ms,
            takes,
        })
}

/// How it went, and when it was over.
struct Outcome {
    agent: Side<AgentMessage, HubMessage>,
    hub: Side<HubMessage, AgentMessage>,
    over_ms: u64,
}

/// Lets it go on until both sides have ended, or, if nothing is cut, until all is long said.
fn hold(plan: &Plan) -> Outcome {
    fn script<M>(times: &[u64], message: impl Fn(usize) -> M) -> BTreeMap<(u64, usize), M> {
        times.iter().enumerate().map(|(n, at_ms)| ((*at_ms, n), message(n))).collect()
    }
    let (agent, hub) = sessions();
    let mut agent = Side::new(agent, register().into(), script(&plan.up_ms, up), plan.busy_ms[0]);
    let mut hub = Side::new(hub, registered().into(), script(&plan.down_ms, down), plan.busy_ms[1]);
    let [mut up, mut down] = plan.cuts_ms.map(|cut_ms| Way {
        cut_ms,
        takes: plan.takes,
        delays_ms: plan.delays_ms.clone(),
        ..Way::default()
    });
    let is_cut = plan.cuts_ms != [None; 2];
    let (mut now_ms, mut steps) = (0, 0);
    loop {
        agent.go_on(now_ms, &mut down, &mut up);
        hub.go_on(now_ms, &mut up, &mut down);
        let next = agent.next_ms(now_ms, &down).into_iter().chain(hub.next_ms(now_ms, &up)).min();
        let next = next.filter(|next_ms| is_cut || *next_ms < 1_500_000);
        let Some(next_ms) = next else { return Outcome { agent, hub, over_ms: now_ms } };
        steps += 1;
        assert!(steps < 5_000, "it goes round in circles at {now_ms} ms");
        now_ms = next_ms.max(now_ms);
    }
}

/// What was heard is what was said: from the first on, in order, once.
fn is_beginning<M: PartialEq>(heard: &[M], said: &[M]) -> bool {
    said.starts_with(heard)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// Whatever the network does, each side hears what the other said, in order and once, beginning with the registration;
    /// and no side waits for one that is gone.
    #[test]
    fn a_conversation_is_whole_or_it_ends(plan in plan()) {
        let Outcome { agent, hub, over_ms } = hold(&plan);
        prop_assert!(is_beginning(&hub.heard, &agent.said), "{:?} of {:?}", hub.heard, agent.said);
        prop_assert!(is_beginning(&agent.heard, &hub.said), "{:?} of {:?}", agent.heard, hub.said);
        prop_assert!(hub.heard.first().is_none_or(|first| *first == register().into()));
        prop_assert!(agent.heard.first().is_none_or(|first| *first == registered().into()));

        let timing = Timing::default();
        match plan.cuts_ms.into_iter().flatten().min() {
            None => {
                prop_assert!(agent.ended.is_none() && hub.ended.is_none(), "{:?} {:?}", agent.ended, hub.ended);
                prop_assert_eq!(hub.heard.len(), 1 + plan.up_ms.len());
                prop_assert_eq!(agent.heard.len(), 1 + plan.down_ms.len());
            }
            Some(cut_ms) => {
                // Whoever hears nothing ends; the other one hears of that, or nothing, too. Before that each may still be
                // busy with all that has come.
                let reads_ms = 8 * plan.busy_ms.into_iter().max().unwrap_or_default() + LATENCY_MAX_MS;
                let limit_ms = cut_ms + 2 * (reads_ms + ms(timing.silence_max));
                prop_assert!(agent.ended.is_some() && hub.ended.is_some(), "{:?} {:?}", agent.ended, hub.ended);
                prop_assert!(over_ms <= limit_ms, "it is over after {} ms instead of {}", over_ms, limit_ms);
            }
        }
    }

    /// A side that is not busy leaves one that has fallen silent after just as long as is said, in the middle of a
    /// conversation and before it.
    #[test]
    fn silence_is_noticed_in_time(up_ms in prop::collection::vec(0..120_000u64, 0..6), cut_ms in 0..150_000u64, delay_ms in 0..500u64) {
        let plan = Plan {
            up_ms, down_ms: Vec::new(), delays_ms: vec![delay_ms], busy_ms: [0; 2], cuts_ms: [Some(cut_ms), None], takes: usize::MAX,
        };
        let Outcome { agent, hub, .. } = hold(&plan);
        let (ended_ms, end) = hub.ended.expect("it hears nothing any more");
        let timing = Timing::default();
        let limit_ms = if hub.heard.is_empty() {
            prop_assert!(matches!(end, End::Unopened(_)), "{:?}", end);
            ms(timing.welcome_timeout)
        } else {
            prop_assert!(matches!(end, End::Silent(_)), "{:?}", end);
            cut_ms.max(delay_ms) + ms(timing.silence_max)
        };
        prop_assert!(ended_ms <= limit_ms, "{} ms instead of {}", ended_ms, limit_ms);
        // It heard from the other one at least with every ping of its own, so it cannot have been much earlier.
        let last_ms = cut_ms.saturating_sub(ms(timing.ping_interval) + 2 * delay_ms);
        prop_assert!(hub.heard.is_empty() || ended_ms >= last_ms + ms(timing.silence_max), "{} ms", ended_ms);
        prop_assert!(matches!(agent.ended, Some((at_ms, _)) if at_ms <= ended_ms + delay_ms + ms(timing.silence_max)));
    }
}
