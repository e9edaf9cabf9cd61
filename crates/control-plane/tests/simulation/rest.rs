//! What must be true: of stops, always; of all else, when the faults have stopped and nothing is left to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::Row as _;
use wisehosting_node::clock::Clock as _;

use crate::{
    engine::LABEL_INSTANCE,
    history::NodeId,
    user::Intent,
    world::{EDGE_FOLLOWS_MS, EDGE_PLACE, World},
};

/// Longest time from the last fault to the end of all that follows from it.
const REST_WITHIN_MS: u64 = 900_000;
/// How long nothing must be left to do before it counts: longer than a message is on its way, than it takes until a worker
/// that is back must have named what it has.
const REST_MS: u64 = 45_000;

/// Everything that waits for somebody.
const OPEN: &str = "
    SELECT kind || ' job of ' || worker || ' is ' || state FROM jobs WHERE state = 'running'
    UNION ALL SELECT kind || ' job is pending: ' || coalesce(message, '') FROM jobs WHERE state = 'pending'
    UNION ALL SELECT 'a deployment is ' || state FROM deployments
        WHERE state NOT IN ('live', 'superseded', 'stopped', 'failed', 'cancelled')
    UNION ALL SELECT 'an instance is ' || i.state FROM instances i JOIN deployments d ON d.id = i.deployment_id
        WHERE i.state IN ('starting', 'draining', 'stopping') OR i.state = 'healthy' AND d.state <> 'live'
    UNION ALL SELECT 'an instance is to be replaced' FROM instances_to_move i JOIN deployments d ON d.id = i.deployment_id
        WHERE d.state = 'live'
    UNION ALL SELECT 'an app is being deleted' FROM apps WHERE deleted_at IS NOT NULL
    UNION ALL SELECT 'an app is being stopped' FROM apps WHERE stopped_at IS NOT NULL AND routed_deployment_id IS NOT NULL";

/// Jobs of which nothing was heard for too long: both a check of the leases and all pauses of it are shorter.
const OVERDUE: &str = "
    SELECT kind || ' job of ' || worker FROM jobs WHERE state = 'running' AND lease_expires_at < $1";
const OVERDUE_AFTER_MS: u64 = 30_000;

/// Instances that need not run, and why: they broke a limit, or their replacement failed.
const NEED_NOT_RUN: &str = "
    SELECT instance_id::text, kind FROM violations
    UNION ALL SELECT i.id::text, 'lost' FROM instances i JOIN deployments d ON d.repeats = i.deployment_id
        WHERE i.stopped AND d.created_at >= i.lost_at AND d.state IN ('failed', 'cancelled')";

/// An app as it is stored.
struct StoredApp {
    name: String,
    is_stopped: bool,
    /// Number and instance of each deployment that is live, and whether it is the one that is routed to.
    live: Vec<(i32, Option<String>, bool)>,
    newest_superseded: i32,
}

impl World<'_> {
    /// No program is asked to end while visitors are led to it, unless the edge cannot know better.
    pub(crate) fn check_stops(&mut self) -> Result<(), String> {
        let hears = self.control_plane.is_some() && self.is_heard(EDGE_PLACE);
        let since_ms = if hears { self.edge.hears_since_ms.or(Some(self.history.now_ms)) } else { None };
        self.edge.hears_since_ms = since_ms;
        let knows = since_ms.is_some_and(|since_ms| self.history.now_ms - since_ms > EDGE_FOLLOWS_MS);
        let mut asked = self.machines.iter().flat_map(|machine| machine.engine.asked_to_end());
        match asked.find(|instance| knows && self.edge.has(instance)) {
            Some(instance) => Err(format!("instance {instance} is asked to end, and visitors are led to it")),
            None => Ok(()),
        }
    }

    /// Whether the run is over.
    pub(crate) fn check(&mut self) -> Result<bool, String> {
        if !self.phase.is_calm {
            self.calm_down();
            return Ok(false);
        }
        self.check_leases()?;
        if self.user.proof.is_none() && self.away().is_empty() {
            self.user.proof = self.deploy("blog")?;
        }
        let open = self.open();
        if let Some(first) = open.first() {
            self.phase.rest_since_ms = None;
            if self.history.now_ms > self.phase.faults_end_ms + REST_WITHIN_MS {
                return Err(format!("it does not come to rest: {first}"));
            }
            return Ok(false);
        }
        let since_ms = *self.phase.rest_since_ms.get_or_insert(self.history.now_ms);
        if self.history.now_ms < since_ms + REST_MS {
            return Ok(false);
        }
        self.check_rest()?;
        Ok(true)
    }

    /// What is not yet done, in the database and elsewhere.
    fn open(&mut self) -> Vec<String> {
        let site = &mut *self.site;
        let mut open = site.ground.wait(site.database.rows(OPEN));
        open.extend(self.machines.iter().flat_map(|machine| machine.unfinished()));
        open.extend(self.away());
        if self.machines.iter().any(|machine| machine.engine.has_left()) {
            open.push("an engine is at work".to_owned());
        }
        open
    }

    /// The nodes that the control plane does not hear.
    fn away(&mut self) -> Vec<String> {
        let nodes = 0..self.network.places.len();
        let away: Vec<NodeId> = nodes.filter(|node| !self.is_heard(*node)).collect();
        away.into_iter().map(|node| format!("{} is away", Self::name(node))).collect()
    }

    fn is_heard(&self, node: NodeId) -> bool {
        self.network.open_link(node).is_some_and(|id| !self.network.links[&id].is_cut())
    }

    fn check_leases(&mut self) -> Result<(), String> {
        let calm_since_ms = self.phase.faults_end_ms + 2 * OVERDUE_AFTER_MS;
        if self.history.now_ms < calm_since_ms {
            return Ok(());
        }
        let site = &mut *self.site;
        let limit = site.ground.clock.now() - Duration::from_millis(OVERDUE_AFTER_MS);
        let query = sqlx::query(OVERDUE).bind(limit).fetch_all(&mut site.database.admin);
        let overdue = site.ground.wait(query).unwrap();
        overdue
            .first()
            .map_or(Ok(()), |row| Err(format!("a lease ended long ago: {}", row.get::<String, _>(0))))
    }

    fn check_rest(&mut self) -> Result<(), String> {
        let apps = self.stored_apps();
        let mut serving = BTreeSet::new();
        for app in &apps {
            if let Some(instance) = self.check_app(app)? {
                serving.insert(instance);
            }
        }
        self.check_containers(&serving)?;
        self.check_promises(&apps)
    }

    fn stored_apps(&mut self) -> Vec<StoredApp> {
        let site = &mut *self.site;
        let query = sqlx::query(
            "SELECT a.name, a.stopped_at IS NOT NULL,
                    (SELECT coalesce(max(number), 0) FROM deployments WHERE app_id = a.id AND state = 'superseded'),
                    d.number, i.id::text, coalesce(d.id = a.routed_deployment_id, false)
             FROM apps a LEFT JOIN deployments d ON d.app_id = a.id AND d.state = 'live'
             LEFT JOIN instances i ON i.deployment_id = d.id AND i.state = 'healthy' ORDER BY 1, 4, 5",
        );
        let rows = site.ground.wait(query.fetch_all(&mut site.database.admin)).unwrap();
        let mut apps = BTreeMap::<String, StoredApp>::new();
        for row in rows {
            let name: String = row.get(0);
            let app = apps.entry(name.clone()).or_insert_with(|| StoredApp {
                name,
                is_stopped: row.get(1),
                live: Vec::new(),
                newest_superseded: row.get(2),
            });
            if let Some(number) = row.get::<Option<i32>, _>(3) {
                app.live.push((number, row.get(4), row.get(5)));
            }
        }
        apps.into_values().collect()
    }

    /// The instance that serves the app, if one does.
    fn check_app(&self, app: &StoredApp) -> Result<Option<String>, String> {
        let name = &app.name;
        let leads_to = self.edge.leads_to(name);
        if app.is_stopped || app.live.is_empty() {
            let serves = !leads_to.is_empty() || !app.live.is_empty();
            return if serves { Err(format!("{name} is not to serve, and does")) } else { Ok(None) };
        }
        let [(number, Some(instance), true)] = &app.live[..] else {
            return Err(format!("{name} is not served by one instance of one deployment: {:?}", app.live));
        };
        if *number < app.newest_superseded {
            return Err(format!("{name} serves deployment {number} instead of {}", app.newest_superseded));
        }
        if leads_to != [instance.clone()] {
            return Err(format!("{name} is served by {leads_to:?} instead of {instance}"));
        }
        Ok(Some(instance.clone()))
    }

    /// Nothing is left, and nothing is missing.
    fn check_containers(&mut self, serving: &BTreeSet<String>) -> Result<(), String> {
        let site = &mut *self.site;
        let need_not_run: BTreeMap<String, String> =
            site.ground.wait(site.database.pairs(NEED_NOT_RUN)).into_iter().collect();
        let containers = self.machines.iter().flat_map(|machine| machine.engine.all());
        let found: Vec<String> =
            containers.map(|container| container.labels[LABEL_INSTANCE].clone()).collect();
        if let Some(left) = found.iter().find(|instance| !serving.contains(*instance)) {
            return Err(format!("a container of instance {left} is left"));
        }
        for instance in serving {
            let runs = self.machines.iter().any(|machine| machine.engine.runs(instance));
            if !runs && !need_not_run.contains_key(instance) {
                return Err(format!("instance {instance} is to serve and does not run"));
            }
        }
        Ok(())
    }

    /// Nothing that the user was promised is lost.
    fn check_promises(&mut self, apps: &[StoredApp]) -> Result<(), String> {
        let site = &mut *self.site;
        let query = "SELECT id::text, CASE WHEN state = 'failed' AND message IS NULL THEN 'silent' ELSE state END FROM deployments";
        let states: BTreeMap<String, String> =
            site.ground.wait(site.database.pairs(query)).into_iter().collect();
        for (name, asked) in &self.user.apps {
            let app = apps.iter().find(|app| app.name == *name);
            let kept = match asked.intent {
                Some(Intent::Gone) => app.is_none(),
                Some(Intent::Rest) => app.is_some_and(|app| app.is_stopped),
                Some(Intent::Serve) => app.is_some_and(|app| !app.is_stopped),
                None => true,
            };
            if !kept {
                return Err(format!("{name} was to be {:?} and is not", asked.intent));
            }
            for id in &asked.deployments {
                match states.get(id).map(String::as_str) {
                    None => return Err(format!("deployment {id} of {name} is lost")),
                    Some("silent") => return Err(format!("deployment {id} of {name} failed without a word")),
                    Some(state)
                        if asked.called_off.contains(id) && !matches!(state, "cancelled" | "failed") =>
                    {
                        return Err(format!("deployment {id} of {name} was called off and is {state}"));
                    }
                    Some(_) => {}
                }
            }
        }
        match &self.user.proof {
            Some(id) if states.get(id).map(String::as_str) == Some("live") => Ok(()),
            proof => Err(format!("the last deployment {proof:?} is not live")),
        }
    }
}
