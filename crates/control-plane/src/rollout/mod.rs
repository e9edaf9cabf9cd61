//! The rollout: brings what is proven into service, and what is out of service to its end.
//!
//! For each app that is not at rest: load it with its row locked, let the domain plan, carry the plan out in the same
//! transaction. Nothing is remembered between two rounds but since when we listen to the edges.

use std::time::Duration;

use time::OffsetDateTime;
use wisehosting_domain::{
    id::{AppId, DeploymentId, JobId},
    rollout::{Action, Edges, Policy, plan},
    state::DeploymentState,
};
use wisehosting_node::random;
use wisehosting_store::{
    PgConnection, StoreError, deployment_state, deployments,
    jobs::{self, Cancel},
    pool,
    rollout::{self as store, Watch},
};

use crate::{
    nodes::{self, Role},
    routes,
    state::AppState,
};

/// How long until the next look while something is under way.
const INTERVAL_BUSY: Duration = Duration::from_secs(1);
/// How long until the next look when every app is at rest.
const INTERVAL_IDLE: Duration = Duration::from_secs(30);
/// If the next look is later than it was due by more than this, or earlier than the last one, we were stopped or suspended, or
/// our clock was set: the edges may not have had the time that it says has passed.
const LATE_MAX: Duration = Duration::from_secs(10);

const TABLE_FULL: &str =
    "The platform serves as many apps as one route table can hold. Stop or delete one, then deploy again.";

/// Moves deployments on.
pub struct Rollout {
    state: AppState,
    /// None while Postgres is away.
    listening: Option<Listening>,
}

/// The time in which the edges could be told and heard.
#[derive(Clone, Copy, Debug)]
struct Listening {
    /// When it began.
    since: OffsetDateTime,
    /// When the last round began.
    last: OffsetDateTime,
    /// When the next one is due.
    due: OffsetDateTime,
}

impl Listening {
    /// Whether it has gone on until now.
    fn goes_on(&self, now: OffsetDateTime) -> bool {
        self.last <= now && now <= self.due + LATE_MAX
    }
}

/// What is to be told to others once a plan is committed.
#[derive(Debug, Default)]
struct News {
    routes_changed: bool,
    cancelled: bool,
    removed: bool,
}

impl Rollout {
    /// A rollout that has not yet listened to the edges.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        Self { state, listening: None }
    }

    /// Carries out what is due for every app that is not at rest; says when to look again.
    async fn advance_all(&self, watch: Watch) -> Result<Duration, StoreError> {
        let mut connection = pool::acquire(&self.state.pool).await?;
        let apps = store::restless(&mut connection).await?;
        drop(connection);
        let joined = self.state.hub.joined();
        let declared = nodes::known(&self.state.config, &joined, Role::Edge).count();
        let edges = self.state.hub.edges(declared);
        let mut advanced = false;
        for app_id in &apps {
            advanced |= self.advance(*app_id, &edges, watch).await?;
        }
        Ok(match (advanced, apps.is_empty()) {
            (true, _) => Duration::ZERO,
            (false, false) => INTERVAL_BUSY,
            (false, true) => INTERVAL_IDLE,
        })
    }

    /// Carries out what is due for one app; says whether anything was.
    async fn advance(&self, app_id: AppId, edges: &Edges, watch: Watch) -> Result<bool, StoreError> {
        let now = self.state.clock.now();
        let mut transaction = pool::begin(&self.state.pool).await?;
        let Some(app) = store::lock(&mut transaction, app_id, watch).await? else { return Ok(false) };
        let mut actions = plan(&app, edges, Policy::default());
        if app.routed.is_none()
            && let [Action::Route(id)] = actions[..]
            && !routes::has_room(&mut transaction).await?
        {
            actions = vec![Action::Fail(id, TABLE_FULL.to_owned())];
        }
        let mut news = News::default();
        for action in &actions {
            tracing::info!(app.id = %app_id, ?action, "rollout");
            carry_out(&mut transaction, app_id, action, now, &mut news).await?;
        }
        pool::commit(transaction).await?;
        self.tell(app_id, &news);
        Ok(!actions.is_empty())
    }

    fn tell(&self, app_id: AppId, news: &News) {
        if news.routes_changed {
            self.state.signals.routes.notify_one();
        }
        if news.cancelled {
            self.state.signals.jobs.notify_one();
        }
        if news.removed {
            self.state.logs.remove(app_id);
        }
    }
}

impl crate::tasks::Reconciler for Rollout {
    const NAME: &'static str = "rollout";

    async fn reconcile(&mut self) -> Result<Duration, StoreError> {
        let now = self.state.clock.now();
        let listening = self.listening.take().filter(|listening| listening.goes_on(now));
        let since = listening.map_or(now, |listening| listening.since);
        // One time for the whole round: a clock that is set during it is noticed in the next.
        let round = self.advance_all(Watch { since, now }).await;
        if !round.as_ref().is_err_and(StoreError::is_unavailable) {
            let due = now + round.as_ref().copied().unwrap_or_default();
            self.listening = Some(Listening { since, last: now, due });
        }
        round
    }
}

async fn carry_out(
    conn: &mut PgConnection,
    app_id: AppId,
    action: &Action,
    now: OffsetDateTime,
    news: &mut News,
) -> Result<(), StoreError> {
    match action {
        Action::Route(id) => {
            news.routes_changed = true;
            store::route(conn, app_id, Some(*id), now).await.map(|_| ())
        }
        Action::Unroute => {
            news.routes_changed = true;
            store::route(conn, app_id, None, now).await.map(|_| ())
        }
        Action::Promote(id) => advance_to(conn, *id, DeploymentState::Live, now).await,
        Action::Retire(id) => advance_to(conn, *id, DeploymentState::Stopped, now).await,
        Action::Supersede(id) => advance_to(conn, *id, DeploymentState::Superseded, now).await,
        Action::Fail(id, reason) => deployment_state::fail(conn, *id, reason, now).await.map(|_| ()),
        Action::Drain(id) => store::drain(conn, *id, now).await,
        Action::Stop(id) => jobs::enqueue_stop(conn, JobId(random::uuid()), *id, now).await,
        Action::Repeat(id) => repeat(conn, app_id, *id, now).await,
        Action::Cancel(id) => {
            let cancel = jobs::request_cancel(conn, *id, now).await?;
            if cancel == Cancel::Done {
                advance_to(conn, *id, DeploymentState::Cancelled, now).await?;
            }
            news.cancelled = true;
            Ok(())
        }
        Action::Delete(worker) => {
            jobs::enqueue_delete(conn, JobId(random::uuid()), app_id, worker, now).await
        }
        Action::Remove => {
            news.removed = true;
            store::remove(conn, app_id).await
        }
    }
}

/// Queues a deployment of what is in service; the scheduler gives it to a worker that takes new instances.
async fn repeat(
    conn: &mut PgConnection,
    app_id: AppId,
    repeated: DeploymentId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let snapshot = deployments::to_repeat(conn, repeated).await?;
    let id = DeploymentId(random::uuid());
    deployments::create(conn, app_id, id, &snapshot, Some(repeated), now).await?;
    jobs::enqueue_deploy(conn, JobId(random::uuid()), app_id, id, now).await
}

async fn advance_to(
    conn: &mut PgConnection,
    id: DeploymentId,
    state: DeploymentState,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    deployment_state::advance(conn, id, state, now).await.map(|_| ())
}
