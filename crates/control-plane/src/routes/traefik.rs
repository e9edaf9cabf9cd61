//! `GET /v1/traefik/proxy-config`: the route table for a Traefik that polls, as its HTTP provider reads it.
//!
//! Traefik compares bytes, so the same table gives the same bytes. It drops a whole document that has an empty object,
//! so there is none; and `{}` would end all routes, so anything but certainty is a 503, on which it keeps what it has.
//! Each host name has a router of its own: a certificate that cannot be had for one must not hold up the others.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use wisehosting_domain::routes::RouteTable;
use wisehosting_store::routes;

use crate::{error::Problem, state::AppState};

/// The dynamic configuration. Empty parts are left out.
#[derive(Debug, Default, Serialize)]
struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Http>,
}

#[derive(Debug, Serialize)]
struct Http {
    routers: BTreeMap<String, Router>,
    services: BTreeMap<String, Service>,
}

#[derive(Debug, Serialize)]
struct Router {
    rule: String,
    service: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    load_balancer: LoadBalancer,
}

#[derive(Debug, Serialize)]
struct LoadBalancer {
    servers: Vec<Server>,
}

#[derive(Debug, Serialize)]
struct Server {
    url: String,
}

fn render(table: &RouteTable) -> Document {
    let (mut routers, mut services) = (BTreeMap::new(), BTreeMap::new());
    let mut hostnames = BTreeMap::<_, usize>::new();
    for (hostname, route) in table.routes.iter().filter(|(_, route)| !route.upstreams.is_empty()) {
        let service = format!("app-{}", route.app);
        let number = hostnames.entry(&route.app).or_default();
        routers.insert(
            format!("{service}-{number}"),
            Router { rule: format!("Host(`{hostname}`)"), service: service.clone() },
        );
        *number += 1;
        let servers =
            route.upstreams.iter().map(|upstream| Server { url: format!("http://{}", upstream.address) });
        let load_balancer = LoadBalancer { servers: servers.collect() };
        services.insert(service, Service { load_balancer });
    }
    Document { http: (!routers.is_empty()).then_some(Http { routers, services }) }
}

/// Serves the document to whoever has the proxies' token.
///
/// # Errors
/// 401 without the token; 503 while the table is not certain.
pub async fn proxy_config(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    if !is_authorized(&state, &headers) {
        tracing::warn!("refused a request for the proxy configuration: wrong token");
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong_token", "The token is wrong.")
            .hint("Send `Authorization: Bearer` with the token of the setting secrets.traefik_token_file."));
    }
    let mut transaction = state.begin().await?;
    let table = routes::load(&mut transaction).await?;
    Ok(Json(render(&table)).into_response())
}

fn is_authorized(state: &AppState, headers: &HeaderMap) -> bool {
    let sent = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let token = sent.and_then(|sent| sent.strip_prefix(b"Bearer ")).unwrap_or_default();
    let expected = state.secrets.traefik_token.expose_secret().as_bytes();
    !expected.is_empty() && token.ct_eq(expected).into()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use wisehosting_domain::{
        id::InstanceId,
        routes::{RoutedInstance, Upstream, render as render_table},
    };

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
        serde_json::to_string(&render(&render_table(7, instances))).expect("JSON")
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
}
