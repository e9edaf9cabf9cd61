//! Edges: declared by the configuration, seen when their agent connects.

use crate::{
    DeclaredNode, StoreError,
    error::{doing, inconsistent},
};
use sqlx::PgConnection;
use std::net::IpAddr;
use time::OffsetDateTime;
use wisehosting_domain::name::Label;

/// An edge and what it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Its name.
    pub name: Label,
    /// Its address inside the mesh.
    pub address: IpAddr,
    /// Version of its agent, once it has been seen.
    pub version: Option<String>,
    /// When its agent last said anything.
    pub last_seen_at: Option<OffsetDateTime>,
    /// The newest generation of the route table that it said it serves.
    pub acked_generation: u64,
}

struct Row {
    name: String,
    address: String,
    version: Option<String>,
    last_seen_at: Option<OffsetDateTime>,
    acked_generation: i64,
}

impl Row {
    fn into_edge(self) -> Result<Edge, StoreError> {
        let operation = "list the edges";
        Ok(Edge {
            name: self.name.parse().map_err(inconsistent(operation))?,
            address: self.address.parse().map_err(inconsistent(operation))?,
            version: self.version,
            last_seen_at: self.last_seen_at,
            acked_generation: self.acked_generation.try_into().map_err(inconsistent(operation))?,
        })
    }
}

/// Makes the table say what the configuration says; an edge that is no longer declared may not connect.
///
/// # Errors
/// The database is away.
pub async fn declare(
    conn: &mut PgConnection,
    edges: &[DeclaredNode],
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let names: Vec<String> = edges.iter().map(|edge| edge.name.to_string()).collect();
    sqlx::query!(
        "UPDATE edges SET removed_at = $2 WHERE removed_at IS NULL AND name <> ALL($1)",
        &names,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("remove edges"))?;
    for edge in edges {
        sqlx::query!(
            "INSERT INTO edges (name, address) VALUES ($1, $2::text::inet)
             ON CONFLICT (name) DO UPDATE
             SET address = excluded.address, removed_at = NULL",
            edge.name.as_str(),
            edge.address.to_string()
        )
        .execute(&mut *conn)
        .await
        .map_err(doing("declare an edge"))?;
    }
    Ok(())
}

/// The declared edges, by name.
///
/// # Errors
/// The database is away.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Edge>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT name, host(address) AS "address!", version, last_seen_at, acked_generation
           FROM edges WHERE removed_at IS NULL ORDER BY name"#
    )
    .fetch_all(conn)
    .await
    .map_err(doing("list the edges"))?;
    rows.into_iter().map(Row::into_edge).collect()
}

/// Its agent connected.
///
/// # Errors
/// The database is away.
pub async fn connected(
    conn: &mut PgConnection,
    name: &Label,
    version: &str,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE edges SET version = $2, last_seen_at = $3 WHERE name = $1",
        name.as_str(),
        version,
        now
    )
    .execute(conn)
    .await
    .map_err(doing("note an edge's connection"))
    .map(|_| ())
}

/// Its agent is alive.
///
/// # Errors
/// The database is away.
pub async fn seen(conn: &mut PgConnection, name: &Label, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query!("UPDATE edges SET last_seen_at = $2 WHERE name = $1", name.as_str(), now)
        .execute(conn)
        .await
        .map_err(doing("note an edge's heartbeat"))
        .map(|_| ())
}

/// It serves this generation.
///
/// # Errors
/// The database is away.
pub async fn acked(
    conn: &mut PgConnection,
    name: &Label,
    generation: u64,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE edges SET acked_generation = $2, last_seen_at = $3 WHERE name = $1",
        name.as_str(),
        i64::try_from(generation).unwrap_or(i64::MAX),
        now
    )
    .execute(conn)
    .await
    .map_err(doing("note an edge's generation"))
    .map(|_| ())
}
