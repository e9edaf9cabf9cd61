//! Certificates that edges share, and the right to order one.
//!
//! Invariants: a certificate is replaced by a newer one only; an order is one edge's alone until it ends or its lease does.

use crate::{
    PgConnection, StoreError,
    error::{doing, inconsistent},
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use wisehosting_domain::{
    certificate::{Challenge, RENEW_AT},
    id::JobId,
    name::{Hostname, Label},
    secret::Sealed,
};

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub host: Hostname,
    /// In PEM.
    pub chain: String,
    /// In PEM, sealed.
    pub key: Sealed,
    /// Good from then on.
    pub not_before: OffsetDateTime,
    /// Good until then.
    pub not_after: OffsetDateTime,
}

/// What is known of a host name's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Whose.
    pub host: Hostname,
    /// From when to when the certificate that is kept is good.
    pub stored: Option<(OffsetDateTime, OffsetDateTime)>,
    /// The newest order, whether or not its lease has ended.
    pub order: Option<Order>,
    /// Until then nobody orders.
    pub retry_at: Option<OffsetDateTime>,
    /// The certificate that was forgotten last: from when to when it is good.
    pub forgotten: Option<(OffsetDateTime, OffsetDateTime)>,
}

/// An edge's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which.
    pub id: JobId,
    /// Whose.
    pub edge: Label,
    /// What is to be shown for it.
    pub challenge: Option<Challenge>,
    /// Until then it is the edge's alone.
    pub lease_until: OffsetDateTime,
}

/// An order that an edge wants to begin.
#[derive(Clone, Copy, Debug)]
pub struct Begin<'a> {
    /// For whom.
    pub host: &'a Hostname,
    /// Which order.
    pub id: JobId,
    /// Whose.
    pub edge: &'a Label,
    /// From when on the certificate is good that the edge has.
    pub held_not_before: Option<OffsetDateTime>,
    /// How many orders it may have.
    pub orders_max: u8,
}

/// Gives the edge the right to order until `lease_until`, unless another one has it, the edge has too many, the last order
/// failed lately, or there is a certificate that the edge does not have yet or that is not to be renewed yet. An edge's new
/// order takes the place of its old one. Returns whether it has the right.
///
/// # Errors
/// The database is away.
pub async fn begin(
    conn: &mut PgConnection,
    order: Begin<'_>,
    lease_until: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    let begun = sqlx::query!(
        "INSERT INTO certificates (host, order_id, ordered_by, lease_until)
         SELECT $1::text, $2::uuid, $3::text, $4::timestamptz
         WHERE (SELECT count(*) FROM certificates WHERE ordered_by = $3 AND lease_until > $6 AND host <> $1) < $7::int8
         ON CONFLICT (host) DO UPDATE
         SET order_id = excluded.order_id, ordered_by = excluded.ordered_by, lease_until = excluded.lease_until,
             challenge = NULL
         WHERE (certificates.order_id IS NULL OR certificates.lease_until <= $6 OR certificates.ordered_by = $3)
           AND (certificates.retry_at IS NULL OR certificates.retry_at <= $6)
           AND (certificates.not_after IS NULL OR certificates.not_after <= $6
                OR certificates.not_before <= $5
                   AND certificates.not_after - $6 < (certificates.not_after - certificates.not_before) / $8::float8)",
        order.host.as_str(),
        order.id.0,
        order.edge.as_str(),
        lease_until,
        order.held_not_before,
        now,
        i64::from(order.orders_max),
        f64::from(RENEW_AT)
    )
    .execute(conn)
    .await
    .map_err(doing("begin an order"))?;
    Ok(begun.rows_affected() > 0)
}

/// The order's challenge, which all edges are to show.
///
/// # Errors
/// The database is away.
pub async fn show(
    conn: &mut PgConnection,
    host: &Hostname,
    order: JobId,
    edge: &Label,
    challenge: &Challenge,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE certificates SET challenge = $4 WHERE host = $1 AND order_id = $2 AND ordered_by = $3",
        host.as_str(),
        order.0,
        edge.as_str(),
        json!(challenge)
    )
    .execute(conn)
    .await
    .map_err(doing("note a challenge"))
    .map(drop)
}

/// The edge still works on these orders.
///
/// # Errors
/// The database is away.
pub async fn renew(
    conn: &mut PgConnection,
    edge: &Label,
    orders: &[JobId],
    lease_until: OffsetDateTime,
) -> Result<(), StoreError> {
    let orders: Vec<_> = orders.iter().map(|order| order.0).collect();
    sqlx::query!(
        "UPDATE certificates SET lease_until = $3 WHERE ordered_by = $1 AND order_id = ANY($2)",
        edge.as_str(),
        &orders,
        lease_until
    )
    .execute(conn)
    .await
    .map_err(doing("renew orders"))
    .map(drop)
}

/// The edge works on these orders and on no others. Returns whether that ends any.
///
/// # Errors
/// The database is away.
pub async fn keep_only(conn: &mut PgConnection, edge: &Label, orders: &[JobId]) -> Result<bool, StoreError> {
    let orders: Vec<_> = orders.iter().map(|order| order.0).collect();
    let ended = sqlx::query!(
        "UPDATE certificates SET order_id = NULL, ordered_by = NULL, lease_until = NULL, challenge = NULL
         WHERE ordered_by = $1 AND order_id <> ALL($2)",
        edge.as_str(),
        &orders
    )
    .execute(conn)
    .await
    .map_err(doing("end orders"))?;
    Ok(ended.rows_affected() > 0)
}

/// The edge's order failed. Returns how many in a row have; none if it is not the newest one.
///
/// # Errors
/// The database is away.
pub async fn fail(
    conn: &mut PgConnection,
    host: &Hostname,
    order: JobId,
    edge: &Label,
) -> Result<Option<u32>, StoreError> {
    let operation = "note a failed order";
    let failures = sqlx::query_scalar!(
        "UPDATE certificates
         SET order_id = NULL, ordered_by = NULL, lease_until = NULL, challenge = NULL, failures = failures + 1
         WHERE host = $1 AND order_id = $2 AND ordered_by = $3 RETURNING failures",
        host.as_str(),
        order.0,
        edge.as_str()
    )
    .fetch_optional(conn)
    .await
    .map_err(doing(operation))?;
    failures.map(|failures| failures.try_into().map_err(inconsistent(operation))).transpose()
}

/// Nobody orders for the name until then.
///
/// # Errors
/// The database is away.
pub async fn hold_back(
    conn: &mut PgConnection,
    host: &Hostname,
    until: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!("UPDATE certificates SET retry_at = $2 WHERE host = $1", host.as_str(), until)
        .execute(conn)
        .await
        .map_err(doing("hold orders back"))
        .map(drop)
}

/// Keeps a certificate, unless there is one as new, or was one that was forgotten. Returns whether it is kept.
///
/// # Errors
/// The database is away.
pub async fn store(conn: &mut PgConnection, certificate: &Certificate) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "INSERT INTO certificates (host, chain, key, not_before, not_after) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (host) DO UPDATE
         SET chain = excluded.chain, key = excluded.key, not_before = excluded.not_before,
             not_after = excluded.not_after, failures = 0, retry_at = NULL
         WHERE (certificates.not_before IS NULL OR certificates.not_before < excluded.not_before)
           AND (certificates.forgotten_from IS NULL OR certificates.forgotten_from < excluded.not_before)",
        certificate.host.as_str(),
        // Postgres stores any character but this one.
        certificate.chain.replace('\0', "\u{fffd}"),
        json!(certificate.key),
        certificate.not_before,
        certificate.not_after
    )
    .execute(conn)
    .await
    .map_err(doing("store a certificate"))?;
    Ok(stored.rows_affected() > 0)
}

/// Keeps the certificate of a host name no more, nor takes it again. Nothing holds back the order of the next one.
///
/// # Errors
/// There is none; the database is away.
pub async fn forget(conn: &mut PgConnection, host: &Hostname) -> Result<(), StoreError> {
    let operation = "forget a certificate";
    let forgotten = sqlx::query!(
        "UPDATE certificates
         SET forgotten_from = not_before, forgotten_until = not_after, chain = NULL, key = NULL, not_before = NULL,
             not_after = NULL, failures = 0, retry_at = NULL
         WHERE host = $1 AND chain IS NOT NULL",
        host.as_str()
    )
    .execute(conn)
    .await
    .map_err(doing(operation))?;
    if forgotten.rows_affected() == 0 { Err(StoreError::NotFound { operation }) } else { Ok(()) }
}

/// The edge's order for the name has done its work.
///
/// # Errors
/// The database is away.
pub async fn end(conn: &mut PgConnection, host: &Hostname, edge: &Label) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE certificates SET order_id = NULL, ordered_by = NULL, lease_until = NULL, challenge = NULL
         WHERE host = $1 AND ordered_by = $2",
        host.as_str(),
        edge.as_str()
    )
    .execute(conn)
    .await
    .map_err(doing("end an order"))
    .map(drop)
}

/// The certificate of a host name, if there is one.
///
/// # Errors
/// The database is away.
pub async fn get(conn: &mut PgConnection, host: &Hostname) -> Result<Option<Certificate>, StoreError> {
    let operation = "load a certificate";
    let row = sqlx::query!(
        r#"SELECT chain AS "chain!", key AS "key!", not_before AS "not_before!", not_after AS "not_after!"
           FROM certificates WHERE host = $1 AND chain IS NOT NULL"#,
        host.as_str()
    )
    .fetch_optional(conn)
    .await
    .map_err(doing(operation))?;
    row.map(|row| {
        let key = serde_json::from_value(row.key).map_err(inconsistent(operation))?;
        let (not_before, not_after) = (row.not_before, row.not_after);
        Ok(Certificate { host: host.clone(), chain: row.chain, key, not_before, not_after })
    })
    .transpose()
}

/// What is known of every host name.
///
/// # Errors
/// The database is away.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Known>, StoreError> {
    let operation = "list the certificates";
    let rows = sqlx::query!(
        "SELECT host, not_before, not_after, order_id, ordered_by, lease_until, challenge, retry_at, forgotten_from,
                forgotten_until
         FROM certificates ORDER BY host"
    )
    .fetch_all(conn)
    .await
    .map_err(doing(operation))?;
    rows.into_iter()
        .map(|row| {
            let challenge = row.challenge.map(serde_json::from_value).transpose();
            let challenge = challenge.map_err(inconsistent(operation))?;
            let order = match (row.order_id, row.ordered_by, row.lease_until) {
                (Some(id), Some(edge), Some(lease_until)) => {
                    let edge = edge.parse().map_err(inconsistent(operation))?;
                    Some(Order { id: JobId(id), edge, challenge, lease_until })
                }
                _ => None,
            };
            Ok(Known {
                host: row.host.parse().map_err(inconsistent(operation))?,
                stored: row.not_before.zip(row.not_after),
                order,
                retry_at: row.retry_at,
                forgotten: row.forgotten_from.zip(row.forgotten_until),
            })
        })
        .collect()
}

/// Forgets names whose certificate has ended, and for which nobody has ordered since `since`.
///
/// # Errors
/// The database is away.
pub async fn prune(
    conn: &mut PgConnection,
    since: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM certificates
         WHERE (not_after IS NULL OR not_after <= $2) AND (lease_until IS NULL OR lease_until <= $1)
           AND (retry_at IS NULL OR retry_at <= $1) AND (forgotten_until IS NULL OR forgotten_until <= $2)",
        since,
        now
    )
    .execute(conn)
    .await
    .map_err(doing("forget certificates"))
    .map(drop)
}

/// Locks the next certificate after `after`, in the order of host names, whose key another key than `key_id` has sealed.
///
/// # Errors
/// The database is away.
pub async fn lock_stale(
    conn: &mut PgConnection,
    key_id: &str,
    after: &str,
) -> Result<Option<(Hostname, Value)>, StoreError> {
    let operation = "look for keys to be sealed";
    let row = sqlx::query!(
        r#"SELECT host, key AS "key!" FROM certificates
           WHERE host > $2 AND key IS NOT NULL AND key ->> 'k' IS DISTINCT FROM $1
           ORDER BY host LIMIT 1 FOR UPDATE"#,
        key_id,
        after
    )
    .fetch_optional(conn)
    .await
    .map_err(doing(operation))?;
    row.map(|row| Ok((row.host.parse().map_err(inconsistent(operation))?, row.key))).transpose()
}

/// Writes the key of a certificate anew; without one, the certificate is not kept any more.
///
/// # Errors
/// The database is away.
pub async fn replace_key(
    conn: &mut PgConnection,
    host: &Hostname,
    key: Option<&Sealed>,
) -> Result<(), StoreError> {
    let query = match key {
        Some(key) => {
            sqlx::query!("UPDATE certificates SET key = $2 WHERE host = $1", host.as_str(), json!(key))
        }
        None => sqlx::query!(
            "UPDATE certificates SET chain = NULL, key = NULL, not_before = NULL, not_after = NULL WHERE host = $1",
            host.as_str()
        ),
    };
    query.execute(conn).await.map_err(doing("write a sealed key")).map(drop)
}
