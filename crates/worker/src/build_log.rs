//! The log of one deployment on its way to the control plane.
//!
//! Invariants: lines arrive in the order in which they were written, numbered from 0; a build that does not stop
//! printing fills no disk; all that can be sent has been sent when [`BuildLog::finish`] returns.

use crate::{
    lines::{self, Waiting},
    outbox::Outbox,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use wisehosting_domain::id::DeploymentId;
use wisehosting_node::clock::Clock;
use wisehosting_protocol::payload::{BuildLog as Message, LogLine, Stream};

/// How long lines are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(100);
/// Lines that their author may be ahead of the gathering.
const CHANNEL_LINES: usize = 256;
/// Output of one build that is kept, in bytes. What the platform itself says is kept beside it.
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an empty line costs, wherever it is kept.
const LINE_COST_BYTES: usize = 64;

/// The log of one deployment.
pub(crate) struct BuildLog {
    lines: mpsc::Sender<LogLine>,
    clock: Arc<dyn Clock>,
    task: JoinHandle<()>,
}

impl BuildLog {
    /// Starts to send.
    pub(crate) fn start(deployment_id: DeploymentId, outbox: Outbox, clock: Arc<dyn Clock>) -> Self {
        let (lines, received) = mpsc::channel(CHANNEL_LINES);
        let task = tokio::spawn(gather(deployment_id, received, outbox));
        Self { lines, clock, task }
    }

    /// Says something in the platform's own name.
    pub(crate) async fn say(&self, text: &str) {
        self.write(Stream::System, text).await;
    }

    /// Writes what the engine says, as much of it as is kept, until it says no more.
    pub(crate) async fn copy(&self, mut output: mpsc::Receiver<String>) {
        let mut left = Some(OUTPUT_BYTES_MAX);
        while let Some(text) = output.recv().await {
            let Some(before) = left else { continue };
            left = before.checked_sub(text.len() + LINE_COST_BYTES);
            match left {
                Some(_) => self.write(Stream::Stdout, &text).await,
                None => self.say("(The build prints too much: the rest of its output is not kept)").await,
            }
        }
    }

    /// Sends what waits, and ends.
    pub(crate) async fn finish(self) {
        drop(self.lines);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task that sends a build log failed");
        }
    }

    async fn write(&self, stream: Stream, text: &str) {
        let line = lines::line(self.clock.now(), stream, text);
        // The other end is there as long as this value is.
        let _ = self.lines.send(line).await;
    }
}

async fn gather(deployment_id: DeploymentId, mut received: mpsc::Receiver<LogLine>, outbox: Outbox) {
    let mut waiting = Waiting::default();
    let mut ticks = interval(GATHER);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let offer = |first_line, lines| outbox.offer(Message { deployment_id, first_line, lines });
    loop {
        tokio::select! {
            line = received.recv() => match line {
                Some(line) => waiting.push(line),
                None => break,
            },
            _ = ticks.tick() => waiting.send(offer),
        }
    }
    waiting.send(offer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use uuid::Uuid;
    use wisehosting_node::clock::SystemClock;
    use wisehosting_protocol::message::AgentMessage;

    #[tokio::test]
    async fn output_without_end_is_cut_and_what_the_platform_says_is_not() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let kept = sent.clone();
        let outbox = Outbox::new(move |message| {
            if let AgentMessage::BuildLog(log) = message {
                kept.lock().expect("not poisoned").extend(log.lines);
            }
            true
        });
        let log = BuildLog::start(DeploymentId(Uuid::from_u128(1)), outbox, Arc::new(SystemClock));
        let (output, received) = mpsc::channel(1);
        let print = async move {
            for _ in 0..OUTPUT_BYTES_MAX / 4_000 {
                output.send("x".repeat(8_000)).await.expect("somebody reads");
            }
        };
        tokio::join!(print, log.copy(received));
        log.say("Healthy").await;
        log.finish().await;

        let lines = sent.lock().expect("not poisoned");
        assert!(lines.iter().map(|line| line.text.len()).sum::<usize>() < OUTPUT_BYTES_MAX);
        let last: Vec<_> = lines[lines.len() - 2..].iter().map(|line| line.text.as_str()).collect();
        assert_eq!(last, ["(The build prints too much: the rest of its output is not kept)", "Healthy"]);
    }
}
