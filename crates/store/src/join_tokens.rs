//! Tokens with which machines join. Only the public half of a token comes here.

use sqlx::PgConnection;
use time::OffsetDateTime;
use wisehosting_domain::{name::Label, role::Role};

use crate::{
    StoreError,
    error::{doing, inconsistent},
};

/// What a token is called.
pub type TokenId = [u8; 8];

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// What it is called.
    pub id: TokenId,
    /// Its public half.
    pub verifier: [u8; 32],
    /// What joins with it.
    pub role: Role,
    /// The only name that it is good for.
    pub node: Option<Label>,
    /// How many nodes may still join with it.
    pub uses_left: u16,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// From when it is good for nothing.
    pub expires_at: OffsetDateTime,
}

struct Row {
    id: Vec<u8>,
    verifier: Vec<u8>,
    role: String,
    node: Option<String>,
    uses_left: i32,
    created_at: OffsetDateTime,
    expires_at: OffsetDateTime,
}

impl Row {
    fn into_token(self, operation: &'static str) -> Result<JoinToken, StoreError> {
        let wrong = |_| inconsistent(operation)("a key or an id has another length");
        Ok(JoinToken {
            id: self.id.try_into().map_err(wrong)?,
            verifier: self.verifier.try_into().map_err(wrong)?,
            role: self.role.parse().map_err(inconsistent(operation))?,
            node: self.node.map(TryInto::try_into).transpose().map_err(inconsistent(operation))?,
            uses_left: self.uses_left.try_into().map_err(inconsistent(operation))?,
            created_at: self.created_at,
            expires_at: self.expires_at,
        })
    }
}

/// Stores a new token.
///
/// # Errors
/// The database is away.
pub async fn create(conn: &mut PgConnection, token: &JoinToken) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "INSERT INTO join_tokens (id, verifier, role, node, uses_left, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &token.id,
        &token.verifier,
        token.role.as_str(),
        token.node.as_ref().map(Label::as_str),
        i32::from(token.uses_left),
        token.created_at,
        token.expires_at
    );
    query.execute(conn).await.map_err(doing("create a join token")).map(drop)
}

/// The token of this id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(conn: &mut PgConnection, id: &TokenId) -> Result<JoinToken, StoreError> {
    let query = sqlx::query_as!(
        Row,
        "SELECT id, verifier, role, node, uses_left, created_at, expires_at FROM join_tokens WHERE id = $1",
        id
    );
    let operation = "load a join token";
    query.fetch_one(conn).await.map_err(doing(operation))?.into_token(operation)
}

/// All tokens, the one that expires first first.
///
/// # Errors
/// The database is away.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<JoinToken>, StoreError> {
    let query = sqlx::query_as!(
        Row,
        "SELECT id, verifier, role, node, uses_left, created_at, expires_at FROM join_tokens ORDER BY expires_at, id"
    );
    let operation = "list the join tokens";
    let rows = query.fetch_all(conn).await.map_err(doing(operation))?;
    rows.into_iter().map(|row| row.into_token(operation)).collect()
}

/// Notes that a challenge of this time was met, if none of this time or later was; says whether that is so. Until the
/// transaction ends, nobody else uses the token.
///
/// # Errors
/// The database is away.
pub async fn meet_challenge(
    conn: &mut PgConnection,
    id: &TokenId,
    challenged_at: OffsetDateTime,
) -> Result<bool, StoreError> {
    let query = sqlx::query!(
        "UPDATE join_tokens SET challenged_at = $2
         WHERE id = $1 AND (challenged_at IS NULL OR challenged_at < $2) RETURNING id",
        id,
        challenged_at
    );
    let met = query.fetch_optional(conn).await.map_err(doing("note a challenge"))?;
    Ok(met.is_some())
}

/// One node fewer may join with it.
///
/// # Errors
/// [`StoreError::NotFound`]: there is none, or it is used up.
pub async fn use_up(conn: &mut PgConnection, id: &TokenId) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "UPDATE join_tokens SET uses_left = uses_left - 1 WHERE id = $1 AND uses_left > 0 RETURNING id",
        id
    );
    query.fetch_one(conn).await.map_err(doing("use a join token")).map(drop)
}

/// Notes that a node has joined with it, or has come again, and so knows it.
///
/// # Errors
/// The database is away.
pub async fn note_holder(conn: &mut PgConnection, id: &TokenId, name: &Label) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "UPDATE join_tokens SET holders = array_append(holders, $2) WHERE id = $1 AND $2 <> ALL (holders)",
        id,
        name.as_str()
    );
    query.execute(conn).await.map_err(doing("note who knows a join token")).map(drop)
}

/// Ends the tokens that a node knows; which that were.
///
/// # Errors
/// The database is away.
pub async fn revoke_held(conn: &mut PgConnection, name: &Label) -> Result<Vec<TokenId>, StoreError> {
    let operation = "revoke the join tokens that a node knows";
    let query =
        sqlx::query_scalar!("DELETE FROM join_tokens WHERE $1 = ANY (holders) RETURNING id", name.as_str());
    let ids = query.fetch_all(conn).await.map_err(doing(operation))?;
    let wrong = |_| inconsistent(operation)("an id has another length");
    ids.into_iter().map(|id| id.try_into().map_err(wrong)).collect()
}

/// Ends a token.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn revoke(conn: &mut PgConnection, id: &TokenId) -> Result<(), StoreError> {
    let query = sqlx::query!("DELETE FROM join_tokens WHERE id = $1 RETURNING id", id);
    query.fetch_one(conn).await.map_err(doing("revoke a join token")).map(drop)
}

/// Removes tokens that expired before this.
///
/// # Errors
/// The database is away.
pub async fn forget_expired(conn: &mut PgConnection, before: OffsetDateTime) -> Result<(), StoreError> {
    let query = sqlx::query!("DELETE FROM join_tokens WHERE expires_at < $1", before);
    query.execute(conn).await.map_err(doing("forget expired join tokens")).map(drop)
}
