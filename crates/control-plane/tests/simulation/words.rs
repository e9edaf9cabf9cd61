//! What happens, in the words of a trace.

use wisehosting_protocol::message::{AgentMessage, HubMessage, Message as _};

pub(crate) fn describe_hub(message: &HubMessage) -> String {
    match message {
        HubMessage::Job(job) => format!("job {} {} of {}", short(job.job_id), job.work.kind(), job.app),
        HubMessage::JobCancel(cancel) => format!("cancel {}", short(cancel.0.job_id)),
        HubMessage::ResultAck(ack) => format!("result of {} is stored", short(ack.0.job_id)),
        HubMessage::Routes(routes) => format!("routes of generation {}", routes.table.generation),
        message => message.kind().to_owned(),
    }
}

pub(crate) fn describe_agent(message: &AgentMessage) -> String {
    match message {
        AgentMessage::Register(register) => format!("register, {} jobs", register.running_jobs.len()),
        AgentMessage::Heartbeat(heartbeat) => format!("heartbeat, {} jobs", heartbeat.running_jobs.len()),
        AgentMessage::JobAck(job) => format!("has job {}", short(job.job_id)),
        AgentMessage::JobStatus(status) => format!("job {} is {}", short(status.job_id), status.state),
        AgentMessage::JobResult(result) => format!("job {}: {:?}", short(result.job_id), result.outcome),
        AgentMessage::AppStatus(status) => {
            let (running, stopped) = (status.running, status.stopped);
            format!("instance {} running: {running}, stopped: {stopped}", short(status.instance_id))
        }
        AgentMessage::Violation(violation) => {
            format!("{} broke {}", short(violation.instance_id), violation.kind)
        }
        AgentMessage::RoutesAck(ack) => format!("serves {}, {} problems", ack.generation, ack.problems.len()),
        message => message.kind().to_owned(),
    }
}

/// Enough of an identifier to tell it from others.
pub(crate) fn short(id: impl std::fmt::Display) -> String {
    id.to_string().chars().take(8).collect()
}
