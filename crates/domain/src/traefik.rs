//! The route table as Traefik's dynamic configuration.
//!
//! Traefik compares bytes, so the same table gives the same bytes. It drops a whole document that has an empty object,
//! so there is none. Each host name has a router of its own: a certificate that cannot be had for one must not hold up
//! the others. Text comes in as host names and words alone, so that none can end the quotes around it.

use crate::{
    name::{Hostname, Word},
    routes::RouteTable,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Where Traefik takes requests for a host name, and who makes its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// The entrypoint; without one, those that are Traefik's defaults.
    pub entrypoint: Option<Word>,
    /// The certificate resolver; without one, TLS is as the entrypoint has it.
    pub certresolver: Option<Word>,
}

/// The dynamic configuration. Empty parts are left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Http>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Http {
    routers: BTreeMap<String, Router>,
    services: BTreeMap<String, Service>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Router {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entry_points: Vec<Word>,
    rule: String,
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tls {
    cert_resolver: Word,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    load_balancer: LoadBalancer,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct LoadBalancer {
    servers: Vec<Server>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Server {
    url: String,
}

/// The rule of a host name.
#[must_use]
pub fn rule(hostname: &Hostname) -> String {
    format!("Host(`{hostname}`)")
}

/// The routes of a table. One without any upstream is left out.
#[must_use]
pub fn render(table: &RouteTable, front: &Front) -> Document {
    let mut document = Document::default();
    let mut hostnames = BTreeMap::<_, usize>::new();
    for (hostname, route) in table.routes.iter().filter(|(_, route)| !route.upstreams.is_empty()) {
        let service = format!("app-{}", route.app);
        let number = hostnames.entry(&route.app).or_default();
        let urls = route.upstreams.iter().map(|upstream| format!("http://{}", upstream.address));
        document.add(format!("{service}-{number}"), hostname, front, service, urls);
        *number += 1;
    }
    document
}

/// One route that leads to `url`, under a name of its own.
#[must_use]
pub fn render_one(name: &Word, hostname: &Hostname, front: &Front, url: String) -> Document {
    let mut document = Document::default();
    document.add(format!("route-{name}"), hostname, front, format!("route-{name}"), [url]);
    document
}

impl Document {
    /// Whether there is no route in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.http.is_none()
    }

    fn add(
        &mut self,
        router: String,
        hostname: &Hostname,
        front: &Front,
        service: String,
        urls: impl IntoIterator<Item = String>,
    ) {
        let http = self.http.get_or_insert_default();
        let servers = urls.into_iter().map(|url| Server { url }).collect();
        http.services.insert(service.clone(), Service { load_balancer: LoadBalancer { servers } });
        let entry_points = front.entrypoint.iter().cloned().collect();
        let tls = front.certresolver.clone().map(|cert_resolver| Tls { cert_resolver });
        http.routers.insert(router, Router { entry_points, rule: rule(hostname), service, tls });
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        id::InstanceId,
        routes::{RoutedInstance, Upstream, render as render_table},
    };
    use uuid::Uuid;

    use super::*;

    fn instance(app: &str, hostnames: &[&str], port: u16) -> RoutedInstance {
        RoutedInstance {
            app: app.parse().expect("label"),
            hostnames: hostnames.iter().map(|name| name.parse().expect("host name")).collect(),
            upstream: Upstream {
                instance_id: InstanceId(Uuid::from_u128(port.into())),
                address: ([10, 50, 0, 11], port).into(),
            },
        }
    }

    fn text(instances: &[RoutedInstance]) -> String {
        serde_json::to_string(&render(&render_table(7, instances), &Front::default())).expect("JSON")
    }

    #[test]
    fn no_route_is_an_empty_document_without_empty_parts() {
        assert_eq!(text(&[]), "{}");
    }

    #[test]
    fn each_hostname_has_a_router_and_each_app_a_service() {
        let two = instance("a", &["a.example.org", "www.example.org"], 20_001);
        let again = instance("a", &["a.example.org", "www.example.org"], 20_002);
        let expected = concat!(
            r#"{"http":{"routers":{"#,
            r#""app-a-0":{"rule":"Host(`a.example.org`)","service":"app-a"},"#,
            r#""app-a-1":{"rule":"Host(`www.example.org`)","service":"app-a"},"#,
            r#""app-b-0":{"rule":"Host(`b.example.org`)","service":"app-b"}},"#,
            r#""services":{"#,
            r#""app-a":{"loadBalancer":{"servers":[{"url":"http://10.50.0.11:20001"},{"url":"http://10.50.0.11:20002"}]}},"#,
            r#""app-b":{"loadBalancer":{"servers":[{"url":"http://10.50.0.11:20003"}]}}}}}"#,
        );
        let b = instance("b", &["b.example.org"], 20_003);
        assert_eq!(text(&[two.clone(), again.clone(), b.clone()]), expected);
        assert_eq!(text(&[b, again, two]), expected, "the order of the rows does not show");
    }

    #[test]
    fn a_front_is_in_every_router() {
        let front = Front {
            entrypoint: Some("websecure".parse().expect("word")),
            certresolver: Some("le".parse().expect("word")),
        };
        let (name, hostname) = ("vm-1".parse().expect("word"), "a.example.org".parse().expect("host name"));
        let document = render_one(&name, &hostname, &front, "http://10.50.0.12:8080".to_owned());
        let expected = concat!(
            r#"{"http":{"routers":{"route-vm-1":{"entryPoints":["websecure"],"rule":"Host(`a.example.org`)","#,
            r#""service":"route-vm-1","tls":{"certResolver":"le"}}},"#,
            r#""services":{"route-vm-1":{"loadBalancer":{"servers":[{"url":"http://10.50.0.12:8080"}]}}}}}"#,
        );
        assert_eq!(serde_json::to_string(&document).expect("JSON"), expected);
    }
}
