//! Sealing, at the start, what the present key has not sealed: values that an older version stored in clear, and those of
//! an older key.
//!
//! It may be interrupted and repeated at any time. What cannot be opened is told of, stays as it is (but the key
//! of a certificate, which edges give again), and keeps nobody else waiting.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use serde_json::{Value, json};
use uuid::Uuid;
use wisehosting_domain::{
    id::AppId,
    name::Label,
    secret::{Sealed, Secret},
};
use wisehosting_store::{
    PgPool, StoreError, certificates as store, pool,
    sealed::{self, Holder, Stale},
};

use super::{KeyRing, OpenError, Place};
use crate::certificates;

/// Rows of one transaction.
const BATCH: i64 = 100;

/// What [`reseal`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Values that were in clear.
    pub clear: usize,
    /// Values that an older key had sealed.
    pub older: usize,
    /// Values that cannot be opened: app and place.
    pub unreadable: BTreeSet<(Label, String)>,
}

/// Seals all values with the present key, and tells the log what was done.
///
/// # Errors
/// The database is away; what is done stays done.
pub async fn reseal(pool: &PgPool, keys: &KeyRing) -> Result<Resealed, StoreError> {
    let mut done = Resealed::default();
    for holder in Holder::ALL {
        let mut after = Uuid::nil();
        loop {
            let mut transaction = pool::begin(pool).await?;
            let rows = sealed::lock_stale(&mut transaction, holder, keys.key_id(), after, BATCH).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for Stale { id, app, values } in rows {
                let seal = |(name, value): (String, Value)| {
                    let place = match holder {
                        Holder::App | Holder::Deployment => Place::Variable(&name),
                        Holder::Login => Place::Login(&name),
                    };
                    let value = done.seal(keys, &app, place, value);
                    (name, value)
                };
                let values = values.into_iter().map(seal).collect();
                sealed::replace(&mut transaction, holder, id, values).await?;
            }
            pool::commit(transaction).await?;
        }
    }
    reseal_certificates(pool, keys, &mut done).await?;
    done.tell(keys);
    Ok(done)
}

/// The same for the keys of certificates, one a transaction. One that cannot be opened is not kept: an edge that has it gives
/// it again, or a new one is ordered.
async fn reseal_certificates(pool: &PgPool, keys: &KeyRing, done: &mut Resealed) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let mut transaction = pool::begin(pool).await?;
        let stale = store::lock_stale(&mut transaction, keys.key_id(), &after).await?;
        let Some((host, key)) = stale else { return Ok(()) };
        let (owner, place) = certificates::place(&host);
        let key = done.open(keys, owner, place, &key).ok().flatten();
        if key.is_none() {
            tracing::warn!(host.name = %host, "a certificate is not kept any more: its key cannot be opened");
        }
        let sealed = key.map(|key| keys.seal(owner, place, &key));
        store::replace_key(&mut transaction, &host, sealed.as_ref()).await?;
        pool::commit(transaction).await?;
        after = host.to_string();
    }
}

impl Resealed {
    fn seal(&mut self, keys: &KeyRing, app: &(AppId, Label), place: Place<'_>, value: Value) -> Value {
        match self.open(keys, app.0, place, &value) {
            Ok(Some(secret)) => json!(keys.seal(app.0, place, &secret)),
            Ok(None) => value,
            Err(_) => {
                self.unreadable.insert((app.1.clone(), place.to_string()));
                value
            }
        }
    }

    /// The value in the open; none if the present key has sealed it.
    fn open(
        &mut self,
        keys: &KeyRing,
        app: AppId,
        place: Place<'_>,
        value: &Value,
    ) -> Result<Option<Secret>, OpenError> {
        if let Value::String(text) = value {
            self.clear += 1;
            return Ok(Some(text.as_str().into()));
        }
        let sealed = Sealed::deserialize(value).map_err(|_| OpenError::Refused)?;
        if sealed.key_id == keys.key_id() {
            return Ok(None);
        }
        let secret = keys.open(app, place, &sealed)?;
        self.older += 1;
        Ok(Some(secret))
    }

    fn tell(&self, keys: &KeyRing) {
        if self.clear + self.older > 0 {
            let (clear, older, key) = (self.clear, self.older, keys.key_id());
            tracing::info!(
                values.clear = clear,
                values.older = older,
                key.id = key,
                "secrets at rest are sealed anew"
            );
        }
        for (app, place) in &self.unreadable {
            tracing::error!(
                app.name = %app, place, "a sealed value cannot be opened: deploys of the app fail until it is set again or its key is there"
            );
        }
    }
}
