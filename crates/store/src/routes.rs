//! The route table: its generation, and the routes that follow from apps and instances.
//!
//! The generation and the rows change in one transaction, and [`load`] reads both in one statement, so two tables of
//! one generation are equal.

use crate::{
    StoreError,
    error::{doing, inconsistent},
};
use sqlx::PgConnection;
use std::net::{IpAddr, SocketAddr};
use wisehosting_domain::{
    id::InstanceId,
    name::{Hostname, Label},
    routes::{RouteTable, RoutedInstance, Upstream, render},
};

const LOAD: &str = "load the route table";

struct Row {
    generation: i64,
    domain: String,
    app: Option<String>,
    instance_id: Option<uuid::Uuid>,
    address: Option<String>,
    port: Option<i32>,
}

/// The table as it is now.
///
/// # Errors
/// The database is away.
pub async fn load(conn: &mut PgConnection) -> Result<RouteTable, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT t.generation, t.domain, routed.name AS "app?", routed.id AS "instance_id?",
                  host(routed.address) AS "address?", routed.port AS "port?"
           FROM route_table t
           LEFT JOIN (
               SELECT a.name, i.id, i.address, i.port
               FROM apps a JOIN instances i ON i.deployment_id = a.routed_deployment_id
               WHERE i.state = 'healthy'
           ) routed ON true"#
    )
    .fetch_all(conn)
    .await
    .map_err(doing(LOAD))?;
    let generation = rows.first().ok_or(StoreError::NotFound { operation: LOAD })?.generation;
    let mut instances = Vec::with_capacity(rows.len());
    for row in &rows {
        instances.extend(routed_instance(row)?);
    }
    Ok(render(generation.try_into().map_err(inconsistent(LOAD))?, &instances))
}

fn routed_instance(row: &Row) -> Result<Option<RoutedInstance>, StoreError> {
    let (Some(app), Some(id), Some(address), Some(port)) =
        (&row.app, row.instance_id, &row.address, row.port)
    else {
        return Ok(None);
    };
    let app: Label = app.parse().map_err(inconsistent(LOAD))?;
    let domain: Hostname = row.domain.parse().map_err(inconsistent(LOAD))?;
    let ip: IpAddr = address.parse().map_err(inconsistent(LOAD))?;
    let port: u16 = port.try_into().map_err(inconsistent(LOAD))?;
    let hostname = Hostname::of_app(&app, &domain).map_err(inconsistent(LOAD))?;
    Ok(Some(RoutedInstance {
        app,
        hostnames: vec![hostname],
        upstream: Upstream { instance_id: InstanceId(id), address: SocketAddr::new(ip, port) },
    }))
}

/// Whether an app has this host name, served or not.
///
/// # Errors
/// The database is away.
pub async fn has_app(conn: &mut PgConnection, host: &Hostname) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM apps, route_table WHERE apps.name || '.' || route_table.domain = $1) AS "has!""#,
        host.as_str()
    )
    .fetch_one(conn)
    .await
    .map_err(doing("look for the app of a host name"))
}

/// Begins a new generation and returns its number. Whoever does so next waits for this transaction, so generations are
/// committed in their order.
///
/// # Errors
/// The database is away.
pub async fn next_generation(conn: &mut PgConnection) -> Result<u64, StoreError> {
    let operation = "begin a generation of the route table";
    let generation =
        sqlx::query_scalar!("UPDATE route_table SET generation = generation + 1 RETURNING generation")
            .fetch_one(conn)
            .await
            .map_err(doing(operation))?;
    generation.try_into().map_err(inconsistent(operation))
}

/// The domain below which apps have their host names; a new one begins a new generation.
///
/// # Errors
/// The database is away.
pub async fn set_domain(conn: &mut PgConnection, domain: &Hostname) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE route_table SET generation = generation + 1, domain = $1 WHERE domain <> $1",
        domain.as_str()
    )
    .execute(conn)
    .await
    .map_err(doing("set the domain of the apps"))
    .map(|_| ())
}
