//! `PATCH /v1/apps/{name}`: other settings for an app's next deployment.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;
use wisehosting_domain::{
    id::AppId,
    name::Label,
    preset::Preset,
    secret::Secret,
    settings::Settings,
    source::{GitRef, Repository},
};
use wisehosting_store::{
    apps::{self, RepositoryLogin},
    pool,
};

use super::{
    App, Doing, LimitsPatch, SetLogin,
    settings::{self, present},
};
use crate::{
    auth::SignedIn,
    error::{ErrorBody, Problem},
    extract::{JsonBody, PathOf},
    sealing::KeyRing,
    state::AppState,
};

/// Settings to change; one that is absent stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateApp {
    /// An https:// or http:// address without credentials.
    #[schema(value_type = Option<String>)]
    repository: Option<Repository>,
    /// Branch or tag; `null` for the repository's default branch.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    branch: Option<Option<GitRef>>,
    /// The login for the repository; `null` to remove it. One that stays is removed when the repository moves to another host.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<SetLogin>)]
    login: Option<Option<SetLogin>>,
    /// Port on which the container listens.
    port: Option<u16>,
    /// Path of the health probe.
    health_path: Option<String>,
    /// How long the container may take to become healthy: 1000 to 600000.
    health_timeout_ms: Option<u64>,
    /// What each instance may use.
    #[serde(default)]
    limits: LimitsPatch,
    /// How to build the repository: `next`, `vite`, `node`, `go`, `python` or `static`; `null` for its Dockerfile, or,
    /// without one, what it looks like.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    preset: Option<Option<Preset>>,
    /// Whether the container may write to `/tmp` only; `null` for where its preset needs no more.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<bool>)]
    read_only: Option<Option<bool>>,
    /// Variables of the container's environment to set, or, with `null`, to remove. The others stay.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    environment: BTreeMap<String, Option<Secret>>,
}

impl UpdateApp {
    fn apply(self, app: AppId, settings: &mut Settings, keys: &KeyRing) -> Result<(), Problem> {
        let source = &mut settings.source;
        source.repository = self.repository.unwrap_or_else(|| source.repository.clone());
        source.branch = self.branch.unwrap_or_else(|| source.branch.clone());
        settings.preset = self.preset.unwrap_or(settings.preset);
        settings.read_only = self.read_only.unwrap_or(settings.read_only);
        settings.port = self.port.unwrap_or(settings.port);
        settings.health_timeout_ms = self.health_timeout_ms.unwrap_or(settings.health_timeout_ms);
        settings.limits = self.limits.apply(settings.limits)?;
        if let Some(health_path) = self.health_path {
            settings.health_path = health_path;
        }
        settings::change_environment(&mut settings.environment, self.environment, app, keys)
    }
}

/// Change the settings of an app. They take effect with its next deployment.
#[utoipa::path(
    patch, path = "/v1/apps/{name}", tag = "apps", operation_id = "update_app",
    params(("name" = String, Path, description = "Name of the app.")),
    request_body = UpdateApp,
    responses(
        (status = 200, description = "The changed app.", body = App),
        (status = 401, description = "Not signed in.", body = ErrorBody),
        (status = 404, description = "You have no such app.", body = ErrorBody),
        (status = 422, description = "A field cannot be used.", body = ErrorBody),
    ),
)]
pub async fn update_app(
    State(state): State<AppState>,
    SignedIn { user, mut db }: SignedIn,
    PathOf(name): PathOf<Label>,
    JsonBody(mut body): JsonBody<UpdateApp>,
) -> Result<Json<App>, Problem> {
    let config = &state.config.apps;
    let mut app = apps::lock(&mut db, user.id, &name).await.map_err(Problem::missing("app"))?;
    let login = body.login.take();
    body.apply(app.id, &mut app.settings, &state.secrets.keys)?;
    settings::check(&app.settings, config.allow_local_repositories)?;
    apps::update(&mut db, user.id, &name, &app.settings).await?;
    app.login = change_login(&state, &app, login)?;
    apps::set_login(&mut db, app.id, app.login.as_ref()).await?;
    let doing = Doing::load(&mut db, user.id).await?;
    pool::commit(db).await?;
    Ok(Json(doing.show(app, config)))
}

/// The login after a change: what is given, or what was there, as long as the repository is on the host that it is for.
fn change_login(
    state: &AppState,
    app: &apps::App,
    change: Option<Option<SetLogin>>,
) -> Result<Option<RepositoryLogin>, Problem> {
    let repository = &app.settings.source.repository;
    let Some(given) = change else {
        let stays = |login: &RepositoryLogin| repository.origin() == Some(&login.origin);
        return Ok(app.login.clone().filter(stays));
    };
    let (keys, allow_clear) = (&state.secrets.keys, state.config.apps.allow_local_repositories);
    let seal = |login: SetLogin| login.seal(app.id, repository, keys, allow_clear, state.clock.now());
    given.map(seal).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_the_same_as_absent() {
        let absent: UpdateApp = serde_json::from_str("{}").unwrap();
        assert_eq!(absent.branch, None);
        let null: UpdateApp = serde_json::from_str(r#"{"branch":null}"#).unwrap();
        assert_eq!(null.branch, Some(None));
        assert!(absent.login.is_none());
        let null: UpdateApp = serde_json::from_str(r#"{"login":null}"#).unwrap();
        assert!(matches!(null.login, Some(None)));
    }
}
