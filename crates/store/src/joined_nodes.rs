//! Nodes that have joined, beside those that the configuration declares.

use sqlx::PgConnection;
use std::net::IpAddr;
use time::OffsetDateTime;
use wisehosting_domain::{name::Label, role::Role};

use crate::{
    StoreError,
    error::{doing, inconsistent},
};

/// A node that has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedNode {
    /// Its name.
    pub name: Label,
    /// What kind of node.
    pub role: Role,
    /// Its address inside the mesh.
    pub address: IpAddr,
    /// Its key in the mesh.
    pub public_key: [u8; 32],
    /// SHA-256 of its API key.
    pub api_key_sha256: [u8; 32],
    /// The other key with which an operator lets it come back.
    pub approved_public_key: Option<[u8; 32]>,
    /// When it joined, or came back with another key.
    pub joined_at: OffsetDateTime,
    /// When an operator removed it.
    pub removed_at: Option<OffsetDateTime>,
}

struct Row {
    name: String,
    role: String,
    address: String,
    public_key: Vec<u8>,
    api_key_sha256: Vec<u8>,
    approved_public_key: Option<Vec<u8>>,
    joined_at: OffsetDateTime,
    removed_at: Option<OffsetDateTime>,
}

impl Row {
    fn into_node(self, operation: &'static str) -> Result<JoinedNode, StoreError> {
        let key = |bytes: Vec<u8>| {
            bytes.try_into().map_err(|_| inconsistent(operation)("a key has another length"))
        };
        Ok(JoinedNode {
            name: self.name.parse().map_err(inconsistent(operation))?,
            role: self.role.parse().map_err(inconsistent(operation))?,
            address: self.address.parse().map_err(inconsistent(operation))?,
            public_key: key(self.public_key)?,
            api_key_sha256: key(self.api_key_sha256)?,
            approved_public_key: self.approved_public_key.map(key).transpose()?,
            joined_at: self.joined_at,
            removed_at: self.removed_at,
        })
    }
}

/// All of them, by name; those too that were removed and whose addresses are not free yet.
///
/// # Errors
/// The database is away.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<JoinedNode>, StoreError> {
    let operation = "list the nodes that have joined";
    let query = sqlx::query_as!(
        Row,
        r#"SELECT name, role, host(address) AS "address!", public_key, api_key_sha256, approved_public_key,
                  joined_at, removed_at
           FROM joined_nodes ORDER BY name"#
    );
    let rows = query.fetch_all(conn).await.map_err(doing(operation))?;
    rows.into_iter().map(|row| row.into_node(operation)).collect()
}

/// Until the transaction ends, nobody else changes who has joined.
///
/// # Errors
/// The database is away.
pub async fn lock(conn: &mut PgConnection) -> Result<(), StoreError> {
    let query = sqlx::query!("LOCK TABLE joined_nodes IN SHARE ROW EXCLUSIVE MODE");
    query.execute(conn).await.map_err(doing("lock the nodes that have joined")).map(drop)
}

/// Stores a node that joins, in the place of one of its name.
///
/// # Errors
/// [`StoreError::Conflict`]: its address or its key is another's.
pub async fn put(conn: &mut PgConnection, node: &JoinedNode) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "INSERT INTO joined_nodes
             (name, role, address, public_key, api_key_sha256, approved_public_key, joined_at, removed_at)
         VALUES ($1, $2, $3::text::inet, $4, $5, $6, $7, $8)
         ON CONFLICT (name) DO UPDATE
         SET role = excluded.role, address = excluded.address, public_key = excluded.public_key,
             api_key_sha256 = excluded.api_key_sha256, approved_public_key = excluded.approved_public_key,
             joined_at = excluded.joined_at, removed_at = excluded.removed_at",
        node.name.as_str(),
        node.role.as_str(),
        node.address.to_string(),
        &node.public_key,
        &node.api_key_sha256,
        node.approved_public_key.as_ref().map(|key| &key[..]),
        node.joined_at,
        node.removed_at
    );
    query.execute(conn).await.map_err(doing("store a node that joins")).map(drop)
}

/// Lets a node come back with this key in the place of its own.
///
/// # Errors
/// [`StoreError::NotFound`]: no node of this name has joined.
pub async fn approve(conn: &mut PgConnection, name: &Label, public_key: &[u8; 32]) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "UPDATE joined_nodes SET approved_public_key = $2 WHERE name = $1 AND removed_at IS NULL RETURNING name",
        name.as_str(),
        public_key
    );
    query.fetch_one(conn).await.map_err(doing("approve a node's key")).map(drop)
}

/// Has a node that uses its approved key have no other; nothing changes if that has happened already.
///
/// # Errors
/// [`StoreError::Conflict`]: the key is another's.
pub async fn take_approved(
    conn: &mut PgConnection,
    name: &Label,
    approved: &[u8; 32],
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "UPDATE joined_nodes SET public_key = approved_public_key, approved_public_key = NULL
         WHERE name = $1 AND approved_public_key = $2",
        name.as_str(),
        approved
    );
    query.execute(conn).await.map_err(doing("end a node's old key")).map(drop)
}

/// Removes a node; its address stays taken for now.
///
/// # Errors
/// [`StoreError::NotFound`]: no node of this name has joined.
pub async fn remove(conn: &mut PgConnection, name: &Label, now: OffsetDateTime) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "UPDATE joined_nodes SET removed_at = $2, approved_public_key = NULL
         WHERE name = $1 AND removed_at IS NULL RETURNING name",
        name.as_str(),
        now
    );
    query.fetch_one(conn).await.map_err(doing("remove a node")).map(drop)
}

/// Frees the addresses of nodes that were removed before this.
///
/// # Errors
/// The database is away.
pub async fn forget_removed(conn: &mut PgConnection, before: OffsetDateTime) -> Result<(), StoreError> {
    let query = sqlx::query!("DELETE FROM joined_nodes WHERE removed_at < $1", before);
    query.execute(conn).await.map_err(doing("forget removed nodes")).map(drop)
}
