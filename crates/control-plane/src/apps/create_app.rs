//! `POST /v1/apps`: a new app.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use wisehosting_domain::{
    id::AppId,
    limits::Limits,
    name::{Hostname, Label},
    preset::Preset,
    secret::Secret,
    settings::Settings,
    source::{GitRef, Repository, Source},
};
use wisehosting_node::random;
use wisehosting_store::{StoreError, apps, pool};

use super::{App, Doing, LimitsPatch, SetLogin, settings};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::JsonBody,
    sealing::KeyRing,
    state::AppState,
};

/// An app to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApp {
    /// A DNS label: its visitors find it at `<name>.<domain>`.
    #[schema(value_type = String, example = "hello")]
    name: Label,
    /// An https:// or http:// address without credentials.
    #[schema(value_type = String, example = "https://example.org/hello.git")]
    repository: Repository,
    /// Branch or tag; the repository's default branch if absent.
    #[schema(value_type = Option<String>, example = "main")]
    branch: Option<GitRef>,
    /// The login for the repository, if it is private.
    login: Option<SetLogin>,
    /// Port on which the container listens; one that the image exposes alone takes its place.
    #[serde(default = "default_port")]
    port: u16,
    /// Path of the health probe.
    #[serde(default = "default_health_path")]
    health_path: String,
    /// How long the container may take to become healthy: 1000 to 600000.
    #[serde(default = "default_health_timeout_ms")]
    health_timeout_ms: u64,
    /// What each instance may use; by default 256 MiB, one core and 512 processes.
    #[serde(default)]
    limits: LimitsPatch,
    /// How to build the repository: `next`, `vite`, `node`, `go`, `python` or `static`. By its Dockerfile, or, without one,
    /// as what it looks like, if absent.
    #[schema(value_type = Option<String>, example = "node")]
    preset: Option<Preset>,
    /// Whether the container may write to `/tmp` only; where its preset needs no more, if absent.
    read_only: Option<bool>,
    /// Environment of the container. A value is never shown again.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    environment: BTreeMap<String, Secret>,
}

fn default_port() -> u16 {
    8080
}

fn default_health_path() -> String {
    "/".to_owned()
}

fn default_health_timeout_ms() -> u64 {
    60_000
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("The name {0} is taken.")]
    NameTaken(Label),
    #[error("name: with the domain of the platform it is longer than a host name can be")]
    NameTooLong,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NameTaken(_) => Self::new(StatusCode::CONFLICT, "name_taken", text).field("name").hint(
                "Choose another name; the name of a deleted app is free once its workers have removed what they had of it.",
            ),
            Error::NameTooLong => Self::invalid("name", text),
        }
    }
}

impl CreateApp {
    fn into_settings(self, app: AppId, keys: &KeyRing) -> Result<Settings, Problem> {
        let mut environment = BTreeMap::new();
        let variables = self.environment.into_iter().map(|(name, value)| (name, Some(value))).collect();
        settings::change_environment(&mut environment, variables, app, keys)?;
        Ok(Settings {
            source: Source { repository: self.repository, branch: self.branch, commit: None },
            preset: self.preset,
            read_only: self.read_only,
            limits: self.limits.apply(Limits::default())?,
            port: self.port,
            health_path: self.health_path,
            health_timeout_ms: self.health_timeout_ms,
            environment,
        })
    }
}

/// Make an app. It is not deployed yet.
#[utoipa::path(
    post, path = "/v1/apps", tag = "apps", operation_id = "create_app",
    request_body = CreateApp,
    responses(
        (status = 201, description = "The new app.", body = App),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 409, description = "The name is taken.", body = ErrorBody),
        (status = 422, description = "A field cannot be used.", body = ErrorBody),
    ),
)]
pub async fn create_app(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    JsonBody(mut body): JsonBody<CreateApp>,
) -> Result<(StatusCode, Json<App>), Problem> {
    let config = &state.config.apps;
    let name = body.name.clone();
    Hostname::of_app(&name, &config.domain).map_err(|_| Error::NameTooLong)?;
    let id = AppId(random::uuid());
    let login = body.login.take();
    let settings = body.into_settings(id, &state.secrets.keys)?;
    settings::check(&settings, config.allow_local_repositories)?;
    let now = state.clock.now();
    let (keys, allow_clear) = (&state.secrets.keys, config.allow_local_repositories);
    let seal = |login: SetLogin| login.seal(id, &settings.source.repository, keys, allow_clear, now);
    let login = login.map(seal).transpose()?;
    let app = apps::App { id, name, settings, login, routed: None, stopped: false, created_at: now };
    match apps::create(&mut db, user.id, &app).await {
        Err(StoreError::Conflict { .. }) => return Err(Error::NameTaken(app.name).into()),
        created => created?,
    }
    apps::set_login(&mut db, id, app.login.as_ref()).await?;
    let app = apps::get(&mut db, user.id, &app.name).await?;
    pool::commit(db).await?;
    Ok((StatusCode::CREATED, Json(Doing::nothing().show(app, config))))
}
