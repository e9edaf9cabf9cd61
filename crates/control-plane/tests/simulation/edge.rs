//! An edge: it keeps the table that it serves, whatever becomes of its connection.

use wisehosting_domain::routes::{RouteTable, Upstream};
use wisehosting_node::channel::{self, ChannelHandle, Waiting};
use wisehosting_protocol::{
    message::AgentMessage,
    payload::{RouteProblem, RoutesAck},
};

use crate::worker::Machine;

pub(crate) struct EdgeModel {
    channel: ChannelHandle,
    /// What it has said and nobody has sent yet.
    pub(crate) waiting: Waiting,
    pub(crate) serving: Option<RouteTable>,
    /// The newest table that it was sent.
    pub(crate) received: Option<RouteTable>,
    /// Since when it hears the control plane without a break.
    pub(crate) hears_since_ms: Option<u64>,
}

impl EdgeModel {
    pub(crate) fn new() -> Self {
        let (channel, waiting) = channel::queue();
        Self { channel, waiting, serving: None, received: None, hears_since_ms: None }
    }

    /// Tells the control plane, if it listens: all that it says is of its moment.
    pub(crate) fn say(&self, message: impl Into<AgentMessage>) {
        let _ = self.channel.try_send(message);
    }

    /// Serves the newest table; what it says then.
    pub(crate) fn take(&mut self, machines: &[Machine]) -> Option<RoutesAck> {
        let table = self.received.take()?;
        let newer = self.serving.as_ref().is_none_or(|serving| serving.generation <= table.generation);
        if newer {
            self.serving = Some(table);
        }
        let serving = self.serving.as_ref()?;
        let silent = upstreams(serving).filter(|upstream| {
            let instance = upstream.instance_id.to_string();
            !machines.iter().any(|machine| machine.engine.runs(&instance))
        });
        let problems = silent.map(|upstream| RouteProblem {
            instance_id: upstream.instance_id,
            message: "refused".to_owned(),
        });
        Some(RoutesAck { generation: serving.generation, problems: problems.collect() })
    }

    /// Whether requests are taken to this instance.
    pub(crate) fn has(&self, instance: &str) -> bool {
        self.serving.iter().flat_map(upstreams).any(|upstream| upstream.instance_id.to_string() == instance)
    }

    /// The instances that requests for a host name are taken to.
    pub(crate) fn leads_to(&self, app: &str) -> Vec<String> {
        let routes = self.serving.iter().flat_map(|table| table.routes.values());
        let routes = routes.filter(|route| route.app.as_str() == app);
        routes.flat_map(|route| &route.upstreams).map(|upstream| upstream.instance_id.to_string()).collect()
    }
}

fn upstreams(table: &RouteTable) -> impl Iterator<Item = &Upstream> {
    table.routes.values().flat_map(|route| &route.upstreams)
}
