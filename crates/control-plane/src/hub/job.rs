//! A job of the store as the message that gives it to its worker.

use wisehosting_domain::{
    id::{AppId, InstanceId, JobId},
    name::Label,
    state::JobKind,
};
use wisehosting_protocol::payload::{self, Deploy, Stop, Work};
use wisehosting_store::jobs::{Content, Job, UnreadableContent};

use crate::{
    scheduler::leases,
    sealing::{self, KeyRing},
};

/// Time between SIGTERM and SIGKILL.
const STOP_GRACE_MS: u64 = 10_000;

/// A job cannot be given to a worker. Shown to the app's owner.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Settings.
    #[error(transparent)]
    Content(#[from] UnreadableContent),
    /// A secret that its app needs.
    #[error(transparent)]
    Secret(#[from] sealing::Unreadable),
}

/// The message for a job that has its instance; none for one that has not.
///
/// # Errors
/// Of a deploy that cannot be read.
pub fn message(job: &Job, keys: &KeyRing) -> Result<Option<payload::Job>, Unreadable> {
    let Some(instance_id) = job.instance_id else { return Ok(None) };
    let work = match job.kind {
        JobKind::Deploy => Work::Deploy(Box::new(deploy(job, keys)?)),
        JobKind::Stop => Work::Stop(Stop { grace_ms: STOP_GRACE_MS }),
        JobKind::Delete => Work::Delete,
    };
    let (app_id, app) = job.app.clone();
    Ok(Some(payload::Job { job_id: job.id, app_id, app, instance_id, work }))
}

fn deploy(job: &Job, keys: &KeyRing) -> Result<Deploy, Unreadable> {
    let Content { settings, login, image } = job.content.clone()?;
    let login = sealing::open_login(keys, &job.app, &settings.source.repository, login.as_ref())?;
    Ok(Deploy {
        deployment_id: job.deployment_id,
        source: settings.source,
        login,
        image_id: image.map(|image| image.id),
        preset: settings.preset,
        read_only: settings.read_only,
        limits: settings.limits,
        port: settings.port,
        health_path: settings.health_path,
        health_timeout_ms: settings.health_timeout_ms,
        deadline_ms: leases::DEPLOY_MAX.whole_milliseconds().try_into().unwrap_or(0),
        environment: sealing::open_environment(keys, &job.app, &settings.environment)?,
    })
}

/// A stop of an instance that the database knows nothing of: its app was removed while its worker was not there. The job
/// is known to the worker only, by the instance's own id, so it is the same however often it is sent.
pub(super) fn stop_unknown(instance_id: InstanceId) -> payload::Job {
    let InstanceId(id) = instance_id;
    let app: Label = "removed".parse().expect("the text is a label");
    let work = Work::Stop(Stop { grace_ms: STOP_GRACE_MS });
    payload::Job { job_id: JobId(id), app_id: AppId(id), app, instance_id, work }
}
