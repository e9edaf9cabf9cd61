//! Apps: what a user wants to run, under which name.

pub mod create_app;
pub mod delete_app;
pub mod get_app;
pub mod list_apps;
mod login;
pub mod restart_app;
mod settings;
pub mod stats;
pub mod stop_app;
pub mod update_app;
mod url;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;
use wisehosting_domain::{id::UserId, state::DeploymentState};
use wisehosting_store::{
    PgConnection, StoreError, apps,
    deployments::{self, Deployment},
    violations::{self, Down},
};

use crate::{config::AppsConfig, deployments::DeploymentSummary, violations::Violation};

pub use login::{Login, SetLogin};
pub use settings::{AppSettings, LimitsBody, LimitsPatch};
pub use stats::AppUsage;
pub use url::urls;

/// An app and what it is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct App {
    /// Which.
    pub id: Uuid,
    /// A DNS label, unique over all users.
    #[schema(example = "hello")]
    pub name: String,
    /// What it is doing, in one word.
    pub state: AppState,
    /// Where its visitors find it.
    #[schema(example = "https://hello.example.org")]
    pub url: String,
    /// All addresses that lead to it, without and with TLS.
    pub urls: Vec<String>,
    /// What its next deployment will copy.
    pub settings: AppSettings,
    /// The deployment that is served.
    pub live: Option<DeploymentSummary>,
    /// The newest deployment.
    pub latest: Option<DeploymentSummary>,
    /// Why it is down, if that is because a limit was broken.
    pub violation: Option<Violation>,
    /// What it uses now; only where apps are listed or shown, and none if nothing was heard of it lately.
    pub usage: Option<AppUsage>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What an app is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AppState {
    /// Nothing is served and nothing is under way.
    Idle,
    /// A deployment is under way; an older one may be served meanwhile.
    Deploying,
    /// The newest deployment is served.
    Live,
    /// What should be served does not run: it ended and does not start, or it broke a limit.
    Down,
    /// The newest deployment did not come into service; an older one is served.
    Degraded,
    /// The newest deployment failed, and nothing is served.
    Failed,
    /// Its owner has stopped it.
    Stopped,
}

impl AppState {
    /// From the state of the newest deployment, and whether any is live, and that one down.
    fn of(latest: Option<DeploymentState>, any_live: bool, down: bool) -> Self {
        match latest {
            Some(state) if down && !state.is_in_progress() => Self::Down,
            Some(DeploymentState::Live) => Self::Live,
            Some(state) if state.is_in_progress() => Self::Deploying,
            _ if any_live => Self::Degraded,
            Some(DeploymentState::Failed) => Self::Failed,
            _ => Self::Idle,
        }
    }
}

/// What the apps of a user are doing.
struct Doing {
    /// Their newest and their live deployments.
    current: Vec<Deployment>,
    /// Which of those are down.
    down: Vec<Down>,
}

impl Doing {
    /// As it is now.
    async fn load(db: &mut PgConnection, owner: UserId) -> Result<Self, StoreError> {
        let current = deployments::current(db, owner).await?;
        Ok(Self { current, down: violations::down(db, owner).await? })
    }

    /// What a new app is doing.
    fn nothing() -> Self {
        Self { current: Vec::new(), down: Vec::new() }
    }

    /// One of the apps, with what it is doing.
    fn show(&self, app: apps::App, config: &AppsConfig) -> App {
        let newest_of = |states: fn(DeploymentState) -> bool| {
            let own = self.current.iter().filter(|d| d.app == app.name && states(d.state));
            own.max_by_key(|deployment| deployment.number)
        };
        let latest = newest_of(|_| true);
        let live = newest_of(|state| state == DeploymentState::Live);
        let down = live.and_then(|live| self.down.iter().find(|down| down.deployment_id == live.id));
        let urls = urls(&app.name, config);
        App {
            id: app.id.0,
            state: if app.stopped {
                AppState::Stopped
            } else {
                AppState::of(latest.map(|deployment| deployment.state), live.is_some(), down.is_some())
            },
            url: urls.primary().to_owned(),
            urls: vec![urls.http, urls.https],
            settings: AppSettings::new(app.settings, app.login),
            live: live.map(DeploymentSummary::from),
            latest: latest.map(DeploymentSummary::from),
            violation: down.and_then(|down| down.violation.clone()).map(Violation::from),
            usage: None,
            created_at: app.created_at,
            name: app.name.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_from_the_deployments() {
        for (latest, any_live, down, expected) in [
            (None, false, false, AppState::Idle),
            (Some(DeploymentState::Queued), false, false, AppState::Deploying),
            (Some(DeploymentState::Routing), true, false, AppState::Deploying),
            (Some(DeploymentState::Routing), true, true, AppState::Deploying),
            (Some(DeploymentState::Live), true, false, AppState::Live),
            (Some(DeploymentState::Live), true, true, AppState::Down),
            (Some(DeploymentState::Failed), true, false, AppState::Degraded),
            (Some(DeploymentState::Failed), true, true, AppState::Down),
            (Some(DeploymentState::Failed), false, false, AppState::Failed),
            (Some(DeploymentState::Cancelled), false, false, AppState::Idle),
        ] {
            assert_eq!(AppState::of(latest, any_live, down), expected, "{latest:?} {any_live} {down}");
        }
    }
}
