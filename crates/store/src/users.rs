//! People, and the secrets that stand for them.
//!
//! Only the SHA-256 of a secret comes here, and an expired one is as good as none.

use time::OffsetDateTime;
use wisehosting_domain::id::UserId;

use crate::{PgConnection, StoreError, error::doing};

/// SHA-256 of a sign-in link, session or API token.
pub type TokenHash = [u8; 32];

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Unique, lower case.
    pub email: String,
}

/// The user with this address; made with `id` if there is none.
///
/// # Errors
/// The database is away.
pub async fn find_or_create(
    connection: &mut PgConnection,
    id: UserId,
    email: &str,
    now: OffsetDateTime,
) -> Result<User, StoreError> {
    let query = sqlx::query!(
        "INSERT INTO users (id, email, created_at) VALUES ($1, lower($2), $3)
         ON CONFLICT (email) DO UPDATE SET email = users.email RETURNING id, email",
        id.0,
        email,
        now
    );
    let row = query.fetch_one(connection).await.map_err(doing("find or create the user"))?;
    Ok(User { id: UserId(row.id), email: row.email })
}

/// Stores a sign-in link.
///
/// # Errors
/// The database is away.
pub async fn create_login_link(
    connection: &mut PgConnection,
    token: &TokenHash,
    user: UserId,
    expires_at: OffsetDateTime,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "INSERT INTO login_links (token_hash, user_id, expires_at) VALUES ($1, $2, $3)",
        token,
        user.0,
        expires_at
    );
    query.execute(connection).await.map_err(doing("create the sign-in link")).map(drop)
}

/// Uses up a sign-in link and says whose it was.
///
/// # Errors
/// [`StoreError::NotFound`]: it was used before, has expired or never was.
pub async fn redeem_login_link(
    connection: &mut PgConnection,
    token: &TokenHash,
    now: OffsetDateTime,
) -> Result<User, StoreError> {
    let query = sqlx::query!(
        "DELETE FROM login_links USING users
         WHERE login_links.token_hash = $1 AND login_links.expires_at > $2 AND users.id = login_links.user_id
         RETURNING users.id, users.email",
        token,
        now
    );
    let row = query.fetch_one(connection).await.map_err(doing("redeem the sign-in link"))?;
    Ok(User { id: UserId(row.id), email: row.email })
}

/// Stores a browser's session.
///
/// # Errors
/// The database is away.
pub async fn create_session(
    connection: &mut PgConnection,
    token: &TokenHash,
    user: UserId,
    now: OffsetDateTime,
    expires_at: OffsetDateTime,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "INSERT INTO sessions (token_hash, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        token,
        user.0,
        now,
        expires_at
    );
    query.execute(connection).await.map_err(doing("create the session")).map(drop)
}

/// Whose session this is.
///
/// # Errors
/// [`StoreError::NotFound`]: it has ended, has expired or never was.
pub async fn by_session(
    connection: &mut PgConnection,
    token: &TokenHash,
    now: OffsetDateTime,
) -> Result<User, StoreError> {
    let query = sqlx::query!(
        "SELECT users.id, users.email FROM sessions JOIN users ON users.id = sessions.user_id
         WHERE sessions.token_hash = $1 AND sessions.expires_at > $2",
        token,
        now
    );
    let row = query.fetch_one(connection).await.map_err(doing("load the session"))?;
    Ok(User { id: UserId(row.id), email: row.email })
}

/// Ends a session; one that has ended already stays so.
///
/// # Errors
/// The database is away.
pub async fn delete_session(connection: &mut PgConnection, token: &TokenHash) -> Result<(), StoreError> {
    let query = sqlx::query!("DELETE FROM sessions WHERE token_hash = $1", token);
    query.execute(connection).await.map_err(doing("end the session")).map(drop)
}

/// Stores an API token.
///
/// # Errors
/// [`StoreError::Conflict`]: the user has a token of this name.
pub async fn create_api_token(
    connection: &mut PgConnection,
    token: &TokenHash,
    user: UserId,
    name: &str,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "INSERT INTO api_tokens (token_hash, user_id, name, created_at) VALUES ($1, $2, $3, $4)",
        token,
        user.0,
        name,
        now
    );
    query.execute(connection).await.map_err(doing("create the API token")).map(drop)
}

/// Ends the API token of this name.
///
/// # Errors
/// [`StoreError::NotFound`]: the user with this address has none of this name.
pub async fn delete_api_token(
    connection: &mut PgConnection,
    email: &str,
    name: &str,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "DELETE FROM api_tokens USING users
         WHERE users.id = api_tokens.user_id AND users.email = lower($1) AND api_tokens.name = $2
         RETURNING api_tokens.name",
        email,
        name
    );
    query.fetch_one(connection).await.map_err(doing("revoke the API token")).map(drop)
}

/// Whose API token this is.
///
/// # Errors
/// [`StoreError::NotFound`]: nobody's.
pub async fn by_api_token(connection: &mut PgConnection, token: &TokenHash) -> Result<User, StoreError> {
    let query = sqlx::query!(
        "SELECT users.id, users.email FROM api_tokens JOIN users ON users.id = api_tokens.user_id
         WHERE api_tokens.token_hash = $1",
        token
    );
    let row = query.fetch_one(connection).await.map_err(doing("load the API token"))?;
    Ok(User { id: UserId(row.id), email: row.email })
}

/// Removes links and sessions that have expired.
///
/// # Errors
/// The database is away.
pub async fn forget_expired(connection: &mut PgConnection, now: OffsetDateTime) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "WITH links AS (DELETE FROM login_links WHERE expires_at <= $1)
         DELETE FROM sessions WHERE expires_at <= $1",
        now
    );
    query.execute(connection).await.map_err(doing("forget expired sessions")).map(drop)
}
