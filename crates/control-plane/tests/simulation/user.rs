//! The user: asks for things, and remembers what was promised.

use std::collections::BTreeMap;

use axum::http::StatusCode;

use crate::{
    control_plane::{Task, ask},
    history::Event,
    words::short,
    world::World,
};

const APPS: [&str; 2] = ["blog", "shop"];

/// What an app was last asked to do, and the answer was yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Serve,
    Rest,
    Gone,
}

/// What the user knows of an app.
#[derive(Default)]
pub(crate) struct Asked {
    /// None if there was no app yet, or an answer was lost.
    pub(crate) intent: Option<Intent>,
    /// Deployments that were promised.
    pub(crate) deployments: Vec<String>,
    /// Those of them that were called off.
    pub(crate) called_off: Vec<String>,
}

#[derive(Default)]
pub(crate) struct User {
    pub(crate) apps: BTreeMap<&'static str, Asked>,
    /// The deployment that must come into service, once all is calm.
    pub(crate) proof: Option<String>,
}

impl World<'_> {
    pub(crate) fn user_asks(&mut self) -> Result<(), String> {
        if self.phase.is_calm {
            return Ok(());
        }
        let app = self.random.choose(&APPS).copied().expect("some");
        match self.random.below(20) {
            0..=10 => self.deploy(app).map(drop)?,
            11 | 12 => self.repeat(app, "restart")?,
            13 => self.repeat(app, "start")?,
            14 => self.change(app, "stop", Intent::Rest)?,
            15 if self.random.once_in(2) => self.change(app, "delete", Intent::Gone)?,
            _ => self.cancel(app)?,
        }
        self.plan_in(500, 8_000, Event::User);
        Ok(())
    }

    /// A request to the control plane, if it is there; none if the answer is lost.
    fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Option<(StatusCode, serde_json::Value)>, String> {
        let Some(router) = self.control_plane.as_ref().filter(|c| c.is_ready).map(|c| c.router.clone())
        else {
            return Ok(Some((StatusCode::BAD_GATEWAY, serde_json::Value::Null)));
        };
        let Some((status, answer)) =
            self.site.ground.step(ask(router, method, path.to_owned(), body.to_owned()))
        else {
            self.control_plane_was_killed();
            return Ok(None);
        };
        self.history.note(format!("user: {method} {path}: {status}"));
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            return Err(format!("{method} {path}: {answer}"));
        }
        // As Postgres tells of new jobs, mostly.
        if self.random.below(4) > 0 {
            self.call(Task::Scheduler, 500);
        }
        Ok(Some((status, answer)))
    }

    fn asked(&mut self, app: &'static str) -> &mut Asked {
        self.user.apps.entry(app).or_default()
    }

    fn create(&mut self, app: &'static str) -> Result<bool, String> {
        let body = format!(
            r#"{{"name":"{app}","repository":"https://example.org/{app}.git","health_timeout_ms":20000}}"#
        );
        let made =
            self.request("POST", "/v1/apps", &body)?.is_some_and(|(status, _)| status == StatusCode::CREATED);
        if made {
            *self.asked(app) = Asked::default();
        }
        Ok(made)
    }

    /// Deploys an app, which is made if there is none; the deployment that was promised.
    pub(crate) fn deploy(&mut self, app: &'static str) -> Result<Option<String>, String> {
        let path = format!("/v1/apps/{app}/deployments");
        let mut answer = self.request("POST", &path, "{}")?;
        if matches!(&answer, Some((StatusCode::NOT_FOUND, _))) && self.create(app)? {
            answer = self.request("POST", &path, "{}")?;
        }
        Ok(self.promised(app, answer))
    }

    fn repeat(&mut self, app: &'static str, how: &str) -> Result<(), String> {
        let answer = self.request("POST", &format!("/v1/apps/{app}/{how}"), "")?;
        self.promised(app, answer);
        Ok(())
    }

    /// Remembers a deployment that the answer promises.
    fn promised(
        &mut self,
        app: &'static str,
        answer: Option<(StatusCode, serde_json::Value)>,
    ) -> Option<String> {
        match answer {
            Some((StatusCode::CREATED, body)) => {
                let id = body["id"].as_str().expect("it has an id").to_owned();
                self.history.note(format!("deployment {} of {app} is promised", short(&id)));
                let asked = self.asked(app);
                asked.intent = Some(Intent::Serve);
                asked.deployments.push(id.clone());
                Some(id)
            }
            answer => {
                self.doubt(app, answer.as_ref());
                None
            }
        }
    }

    /// After a failure of the platform, nobody knows whether it was done.
    fn doubt(&mut self, app: &'static str, answer: Option<&(StatusCode, serde_json::Value)>) {
        let unknown = match answer {
            None => true,
            Some((status, _)) => status.is_server_error() && *status != StatusCode::BAD_GATEWAY,
        };
        if unknown {
            self.asked(app).intent = None;
        }
    }

    fn change(&mut self, app: &'static str, how: &str, intent: Intent) -> Result<(), String> {
        let answer = match intent {
            Intent::Gone => self.request("DELETE", &format!("/v1/apps/{app}"), "")?,
            _ => self.request("POST", &format!("/v1/apps/{app}/{how}"), "")?,
        };
        if answer.as_ref().is_some_and(|(status, _)| status.is_success()) {
            self.asked(app).intent = Some(intent);
        } else {
            self.doubt(app, answer.as_ref());
        }
        if self.asked(app).intent.is_none_or(|intent| intent == Intent::Gone) && intent == Intent::Gone {
            // They go with the app.
            self.asked(app).deployments.clear();
            self.asked(app).called_off.clear();
        }
        Ok(())
    }

    fn cancel(&mut self, app: &'static str) -> Result<(), String> {
        let Some(id) = self.asked(app).deployments.last().cloned() else { return Ok(()) };
        let answer = self.request("POST", &format!("/v1/deployments/{id}/cancel"), "")?;
        if answer.is_some_and(|(status, _)| status == StatusCode::OK) {
            self.asked(app).called_off.push(id);
        }
        Ok(())
    }
}
