//! Values that are to be sealed with another key: found, and written back.
//!
//! What a value is sealed with, and how, is not known here; only that `k` names the key. One without it is in clear, as
//! an older version stored it.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;
use wisehosting_domain::{id::AppId, name::Label};

use crate::{
    PgConnection, StoreError,
    error::{doing, inconsistent},
};

/// Where sealed values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The environment of an app.
    App,
    /// The environment that a deployment has copied.
    Deployment,
    /// The login of an app's repository; the password's name is the origin that it is good for.
    Login,
}

impl Holder {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::App, Self::Deployment, Self::Login];
}

/// A row with at least one value that another key than the present one has sealed, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Stale {
    /// Of the row.
    pub id: Uuid,
    /// Whose values they are.
    pub app: (AppId, Label),
    /// All of the row's values by their names.
    pub values: BTreeMap<String, Value>,
}

struct Row {
    id: Uuid,
    app_id: Uuid,
    app: String,
    values: Value,
}

/// Locks the rows after `after` that hold a value which the key `key_id` has not sealed: in the order of their ids, `limit`
/// at most.
///
/// # Errors
/// The database is away.
pub async fn lock_stale(
    conn: &mut PgConnection,
    holder: Holder,
    key_id: &str,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Stale>, StoreError> {
    let operation = "look for values to be sealed";
    let rows = match holder {
        Holder::App => {
            let query = sqlx::query_as!(
                Row,
                "SELECT id, id AS app_id, name AS app, environment AS values FROM apps
                 WHERE id > $1
                   AND EXISTS (SELECT FROM jsonb_each(environment) v WHERE v.value ->> 'k' IS DISTINCT FROM $2)
                 ORDER BY id LIMIT $3 FOR UPDATE",
                after,
                key_id,
                limit
            );
            query.fetch_all(conn).await
        }
        Holder::Deployment => {
            let query = sqlx::query_as!(
                Row,
                r#"SELECT d.id, d.app_id, a.name AS app, d.snapshot -> 'environment' AS "values!"
                   FROM deployments d JOIN apps a ON a.id = d.app_id
                   WHERE d.id > $1 AND EXISTS (
                       SELECT FROM jsonb_each(d.snapshot -> 'environment') v
                       WHERE v.value ->> 'k' IS DISTINCT FROM $2)
                   ORDER BY d.id LIMIT $3 FOR UPDATE OF d"#,
                after,
                key_id,
                limit
            );
            query.fetch_all(conn).await
        }
        Holder::Login => {
            let query = sqlx::query_as!(
                Row,
                r#"SELECT id, id AS app_id, name AS app,
                          jsonb_build_object(login ->> 'origin', login -> 'password') AS "values!"
                   FROM apps WHERE id > $1 AND login -> 'password' ->> 'k' IS DISTINCT FROM $2 AND login IS NOT NULL
                   ORDER BY id LIMIT $3 FOR UPDATE"#,
                after,
                key_id,
                limit
            );
            query.fetch_all(conn).await
        }
    };
    let stale = |row: Row| {
        let app = (AppId(row.app_id), row.app.parse().map_err(inconsistent(operation))?);
        let values = serde_json::from_value(row.values).map_err(inconsistent(operation))?;
        Ok(Stale { id: row.id, app, values })
    };
    rows.map_err(doing(operation))?.into_iter().map(stale).collect()
}

/// Writes the values of a locked row back.
///
/// # Errors
/// The database is away.
pub async fn replace(
    conn: &mut PgConnection,
    holder: Holder,
    id: Uuid,
    values: BTreeMap<String, Value>,
) -> Result<(), StoreError> {
    let values = Value::from_iter(values);
    let query = match holder {
        Holder::App => sqlx::query!("UPDATE apps SET environment = $2 WHERE id = $1", id, values),
        Holder::Deployment => sqlx::query!(
            "UPDATE deployments SET snapshot = jsonb_set(snapshot, '{environment}', $2) WHERE id = $1",
            id,
            values
        ),
        Holder::Login => sqlx::query!(
            "UPDATE apps SET login = jsonb_set(login, '{password}', $2::jsonb -> (login ->> 'origin')) WHERE id = $1",
            id,
            values
        ),
    };
    query.execute(conn).await.map_err(doing("write sealed values")).map(drop)
}
