//! Deployments: one attempt each to bring one commit of an app into service.

pub mod build_log;
pub mod cancel_deployment;
pub mod create_deployment;
pub mod get_deployment;
pub mod list_deployments;
mod prune;
pub mod watch_deployment;

pub use prune::Pruner;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;
use wisehosting_domain::{
    id::{DeploymentId, UserId},
    state::DeploymentState,
};
use wisehosting_store::{PgConnection, deployments as store, jobs};

use crate::{apps, config::AppsConfig, error::Problem, violations::Violation};

/// A deployment in one line.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentSummary {
    /// Which.
    pub id: Uuid,
    /// Name of its app.
    #[schema(example = "hello")]
    pub app: String,
    /// Counts up within the app, from 1.
    #[schema(example = 3)]
    pub number: i32,
    /// How far it is.
    pub state: State,
    /// Branch or tag that was asked for; none means the repository's default branch.
    pub branch: Option<String>,
    /// The commit that was built, or, before that, the one that was asked for.
    pub commit: Option<String>,
    /// The deployment whose image it starts again, if it is a restart.
    pub repeats: Option<Uuid>,
    /// Why it failed, or what it waits for: one sentence.
    pub message: Option<String>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it went live, failed or was cancelled.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

/// A deployment with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deployment {
    /// The same as in a list.
    #[serde(flatten)]
    pub summary: DeploymentSummary,
    /// The states that it has reached, in order.
    pub steps: Vec<Step>,
    /// Its containers.
    pub instances: Vec<Instance>,
    /// The image that was built, by its content.
    pub image_id: Option<String>,
    /// Where the visitors of the app find it.
    #[schema(example = "https://hello.example.org")]
    pub url: String,
}

/// A state that a deployment has reached.
#[derive(Debug, Serialize, ToSchema)]
pub struct Step {
    /// Which state.
    pub state: State,
    /// When it was reached.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// How long it lasted; none for the last one.
    pub duration_ms: Option<u64>,
}

/// One container.
#[derive(Debug, Serialize, ToSchema)]
pub struct Instance {
    /// Which.
    pub id: Uuid,
    /// Name of its worker.
    #[schema(example = "worker-1")]
    pub worker: String,
    /// How far it is: `starting`, `healthy`, `draining`, `stopping`, `stopped` or `failed`.
    #[schema(example = "healthy")]
    pub state: String,
    /// Where it listens, inside the mesh.
    #[schema(example = "10.50.0.11:20001")]
    pub address: Option<String>,
    /// Whether its container ran when its worker last looked.
    pub running: Option<bool>,
    /// Exit status of its program's last run, if it ended.
    pub exit_code: Option<i64>,
    /// Whether it has not run for half a minute, or is kept from running because it broke a limit.
    pub stopped: bool,
    /// The newest limit that it broke.
    pub violation: Option<Violation>,
    /// When its worker last looked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub observed_at: Option<OffsetDateTime>,
}

/// How far a deployment is. `superseded`, `stopped`, `failed` and `cancelled` are never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DeploymentState)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// The worker fetches the source.
    Cloning,
    /// The image is being built.
    Building,
    /// The container is being started.
    Starting,
    /// The container runs and is being probed.
    Checking,
    /// It is healthy; the edges are being told.
    Routing,
    /// The edges serve it.
    Live,
    /// A newer deployment took its place.
    Superseded,
    /// The app was stopped.
    Stopped,
    /// It never came into service.
    Failed,
    /// Somebody called it off.
    Cancelled,
}

impl From<DeploymentState> for State {
    fn from(state: DeploymentState) -> Self {
        match state {
            DeploymentState::Queued => Self::Queued,
            DeploymentState::Cloning => Self::Cloning,
            DeploymentState::Building => Self::Building,
            DeploymentState::Starting => Self::Starting,
            DeploymentState::Checking => Self::Checking,
            DeploymentState::Routing => Self::Routing,
            DeploymentState::Live => Self::Live,
            DeploymentState::Superseded => Self::Superseded,
            DeploymentState::Stopped => Self::Stopped,
            DeploymentState::Failed => Self::Failed,
            DeploymentState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<&store::Deployment> for DeploymentSummary {
    fn from(deployment: &store::Deployment) -> Self {
        let source = &deployment.snapshot.source;
        let asked_for = || source.commit.as_ref().map(ToString::to_string);
        Self {
            id: deployment.id.0,
            app: deployment.app.to_string(),
            number: deployment.number,
            state: deployment.state.into(),
            branch: source.branch.as_ref().map(ToString::to_string),
            commit: deployment.built.commit.clone().or_else(asked_for),
            repeats: deployment.built.repeats.map(|id| id.0),
            message: deployment.message.clone(),
            created_at: deployment.created_at,
            finished_at: deployment.finished_at,
        }
    }
}

impl From<store::Instance> for Instance {
    fn from(instance: store::Instance) -> Self {
        Self {
            id: instance.id.0,
            worker: instance.worker.into(),
            state: instance.state.to_string(),
            address: instance.address.map(|address| address.to_string()),
            running: instance.running,
            exit_code: instance.exit_code,
            stopped: instance.stopped,
            violation: instance.violation.map(Violation::from),
            observed_at: instance.observed_at,
        }
    }
}

/// Each step with the time until the next one.
fn with_durations(steps: &[store::Step]) -> Vec<Step> {
    let ends = steps.iter().skip(1).map(|next| Some(next.at)).chain([None]);
    steps
        .iter()
        .zip(ends)
        .map(|(step, end)| Step {
            state: step.state.into(),
            at: step.at,
            duration_ms: end.map(|end| u64::try_from((end - step.at).whole_milliseconds()).unwrap_or(0)),
        })
        .collect()
}

/// Loads all that is known of one of the owner's deployments.
pub(crate) async fn load(
    db: &mut PgConnection,
    owner: UserId,
    id: DeploymentId,
    config: &AppsConfig,
) -> Result<Deployment, Problem> {
    let deployment = store::get(db, owner, id).await.map_err(Problem::missing("deployment"))?;
    let mut summary = DeploymentSummary::from(&deployment);
    if deployment.state == DeploymentState::Queued {
        summary.message = jobs::waiting_reason(db, id).await?;
    }
    Ok(Deployment {
        summary,
        steps: with_durations(&store::steps(db, owner, id).await?),
        instances: store::instances(db, owner, id).await?.into_iter().map(Instance::from).collect(),
        image_id: deployment.built.image_id,
        url: apps::urls(&deployment.app, config).primary().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_lasts_until_the_next() {
        let at = |ms| OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(ms);
        let steps = [
            store::Step { state: DeploymentState::Queued, at: at(0) },
            store::Step { state: DeploymentState::Cloning, at: at(40) },
            store::Step { state: DeploymentState::Failed, at: at(100) },
        ];
        let durations: Vec<_> = with_durations(&steps).iter().map(|step| step.duration_ms).collect();
        assert_eq!(durations, [Some(40), Some(60), None]);
    }

    #[test]
    fn a_state_has_the_name_that_it_has_in_the_database() {
        for state in DeploymentState::ALL {
            let name = serde_json::to_value(State::from(*state)).expect("a text");
            assert_eq!(name, state.as_str());
        }
    }
}
