//! Addresses in the mesh that nobody else may have yet: those of declared hosts, and those that a host had lately.

use sqlx::PgConnection;
use std::{collections::BTreeSet, net::IpAddr};
use time::OffsetDateTime;

use crate::{
    StoreError,
    error::{doing, inconsistent},
};

/// Declares the addresses of hosts. Those that were declared and are no longer rest from now on.
///
/// # Errors
/// The database is away.
pub async fn declare(
    conn: &mut PgConnection,
    addresses: &BTreeSet<IpAddr>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "UPDATE resting_addresses SET given_up_at = $2
         WHERE given_up_at IS NULL AND host(address) <> ALL($1)",
        &addresses,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("let addresses rest"))?;
    sqlx::query!(
        "INSERT INTO resting_addresses (address) SELECT declared::inet FROM unnest($1::text[]) AS declared
         ON CONFLICT (address) DO UPDATE SET given_up_at = NULL
         WHERE resting_addresses.given_up_at IS NOT NULL",
        &addresses
    )
    .execute(&mut *conn)
    .await
    .map_err(doing("declare addresses"))
    .map(drop)
}

/// Lets the address of a node that was moved rest from now on.
///
/// # Errors
/// The database is away.
pub async fn give_up(
    conn: &mut PgConnection,
    address: IpAddr,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "INSERT INTO resting_addresses (address, given_up_at) VALUES ($1::text::inet, $2)
         ON CONFLICT (address) DO UPDATE SET given_up_at = excluded.given_up_at
         WHERE resting_addresses.given_up_at IS NOT NULL",
        address.to_string(),
        now
    );
    query.execute(conn).await.map_err(doing("let an address rest")).map(drop)
}

/// All of them.
///
/// # Errors
/// The database is away.
pub async fn list(conn: &mut PgConnection) -> Result<BTreeSet<IpAddr>, StoreError> {
    let operation = "list the addresses that rest";
    let query = sqlx::query_scalar!(r#"SELECT host(address) AS "address!" FROM resting_addresses"#);
    let addresses = query.fetch_all(conn).await.map_err(doing(operation))?;
    addresses.iter().map(|address| address.parse().map_err(inconsistent(operation))).collect()
}

/// Frees those that were given up before this.
///
/// # Errors
/// The database is away.
pub async fn free(conn: &mut PgConnection, before: OffsetDateTime) -> Result<(), StoreError> {
    let query = sqlx::query!("DELETE FROM resting_addresses WHERE given_up_at < $1", before);
    query.execute(conn).await.map_err(doing("free addresses")).map(drop)
}
