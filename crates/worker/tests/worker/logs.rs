//! The lines of an instance, on a channel that breaks and to a control plane that forgets.

use crate::support::{Worker, deploy_job, repository, settings, start, stop_job};
use std::time::Instant;
use wisehosting_containers::testing::{on_host, write_app};
use wisehosting_domain::id::InstanceId;
use wisehosting_protocol::{
    message::AgentMessage,
    payload::{Job, LogLine, Outcome, RuntimeLog, RuntimeLogAck, Stop, Work},
};

const LINES: usize = 100_000;
/// Writes what is no text, a line that is too long, many lines at once, and something when it is asked to end.
const SCRIPT: &str = "trap 'echo asked to end; exit 0' TERM; /bin/busybox printf 'not \\377 text\\n'; \
                      /bin/busybox head -c 30000 /dev/zero | /bin/busybox tr '\\0' x; echo; \
                      /bin/busybox seq 1 100000; /bin/busybox httpd -p 8080 -h /; \
                      while :; do /bin/busybox sleep 0.05; done";

/// What a control plane has stored, message by message.
#[derive(Default)]
struct Stored {
    messages: Vec<(String, Vec<LogLine>)>,
}

impl Stored {
    fn cursor(&self) -> Option<String> {
        self.messages.last().map(|(cursor, _)| cursor.clone())
    }

    fn take(&mut self, log: &RuntimeLog) {
        if let Some(cursor) = log.cursor.clone().filter(|_| log.after == self.cursor()) {
            self.messages.push((cursor, log.lines.clone()));
        }
    }

    fn lines(&self) -> impl Iterator<Item = &LogLine> {
        self.messages.iter().flat_map(|(_, lines)| lines)
    }

    fn has(&self, text: &str) -> bool {
        self.messages.iter().rev().take(3).any(|(_, lines)| lines.iter().any(|line| line.text == text))
    }

    async fn answer(&self, worker: &Worker, log: &RuntimeLog) {
        worker.tell(RuntimeLogAck { instance_id: log.instance_id, cursor: self.cursor() }).await;
    }
}

/// A stop that leaves a busy machine the time to run what the program does when it is asked to end.
fn patient_stop(instance: InstanceId) -> Job {
    Job { work: Work::Stop(Stop { grace_ms: 30_000 }), ..stop_job(1, instance) }
}

async fn reconnect(worker: &Worker) {
    worker.disconnect().await;
    worker.connect().await;
}

#[test]
fn every_line_arrives_once_whatever_breaks() {
    on_host(|host| async move {
        write_app(&host.dir().join("loud"), "", SCRIPT);
        let job = deploy_job(1, &repository(&host.dir().join("loud")));
        let mut worker = start(host.podman(), host.dir()).await;
        worker.tell(job.clone()).await;
        while !matches!(worker.message().await, AgentMessage::JobResult(_)) {}
        // What it has said meanwhile, nobody has answered.
        reconnect(&worker).await;
        let (mut stored, begun) = (Stored::default(), Instant::now());
        for turn in 0.. {
            let log = worker.log().await;
            match turn % 7 {
                // Lost on the way there.
                2 => reconnect(&worker).await,
                // Stored, and the answer lost.
                4 => {
                    stored.take(&log);
                    reconnect(&worker).await;
                }
                // The database has lost what it had stored last.
                5 => {
                    stored.take(&log);
                    stored.messages.pop();
                    stored.messages.pop();
                    stored.answer(&worker, &log).await;
                }
                // The worker is killed.
                6 if turn == 20 => {
                    drop(worker);
                    worker = start(host.podman(), host.dir()).await;
                }
                _ => {
                    stored.take(&log);
                    stored.answer(&worker, &log).await;
                }
            }
            if stored.has(&LINES.to_string()) {
                break;
            }
        }
        println!("{LINES} lines in {} messages took {:?}", stored.messages.len(), begun.elapsed());

        worker.tell(patient_stop(job.instance_id)).await;
        while !stored.has("asked to end") {
            let log = worker.log().await;
            stored.take(&log);
            stored.answer(&worker, &log).await;
        }
        let texts: Vec<&str> = stored.lines().map(|line| line.text.as_str()).collect();
        assert_eq!(texts[0], "not \u{fffd} text");
        let numbers = texts.iter().position(|text| *text == "1").expect("the first number");
        assert_eq!(texts[1..numbers].concat(), "x".repeat(30_000));
        let counted = texts[numbers..].iter().take(LINES).map(|text| text.parse::<usize>().ok());
        assert!(counted.eq((1..=LINES).map(Some)), "each number once, in order");
        assert_eq!(texts[numbers + LINES..], ["asked to end"]);
        assert!(
            stored
                .lines()
                .any(|line| line.at.trim_end_matches('Z').len() == "2026-01-02T03:04:05.123456789".len())
        );
    });
}

#[test]
fn a_log_that_nobody_takes_holds_up_nothing_else() {
    on_host(|host| async move {
        let script = "(while :; do echo 0123456789012345678901234567890123456789; done) & \
                      exec /bin/busybox httpd -f -p 8080 -h /";
        write_app(&host.dir().join("flood"), "", script);
        let mut job = deploy_job(1, &repository(&host.dir().join("flood")));
        settings(&mut job).health_timeout_ms = 60_000;
        let mut worker = start(host.podman(), host.dir()).await;
        worker.tell(job.clone()).await;
        let mut offered = 0;
        // Its lines are not stored until it is stopped.
        let outcome = loop {
            match worker.message().await {
                AgentMessage::RuntimeLog(log) if log.cursor.is_some() => offered += 1,
                AgentMessage::RuntimeLog(log) => Stored::default().answer(&worker, &log).await,
                AgentMessage::JobResult(result) => break result.outcome,
                _ => {}
            }
        };
        assert!(matches!(outcome, Outcome::Deployed { .. }), "{outcome:?}");
        let stop = stop_job(1, job.instance_id);
        worker.tell(stop.clone()).await;
        loop {
            match worker.message().await {
                AgentMessage::RuntimeLog(_) => offered += 1,
                AgentMessage::JobResult(result) if result.job_id == stop.job_id => break,
                _ => {}
            }
        }
        assert!(offered <= 1, "one message waits for its answer, not {offered}");
    });
}
