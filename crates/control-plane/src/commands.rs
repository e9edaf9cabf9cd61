//! The commands that an operator runs beside the running program. They talk to the database directly, and need none of
//! the running program's secrets but the database's password.

use anyhow::{Context as _, ensure};
use secrecy::ExposeSecret;
use time::Duration;
use wisehosting_control_plane::{
    auth::token,
    certificates,
    config::{Config, Secrets},
};
use wisehosting_domain::{id::UserId, name::Label};
use wisehosting_node::{
    clock::{Clock, SystemClock},
    random,
};
use wisehosting_store::{
    StoreError, Transaction, pool,
    users::{self, User},
    workers,
};

const LOGIN_LINK: Duration = Duration::minutes(15);
/// Tells what was found where it should not be.
const API_TOKEN_PREFIX: &str = "wht_";
const EMAIL_LEN_MAX: usize = 254;

pub(crate) fn check_config(config: &Config) -> anyhow::Result<()> {
    config.check()?;
    Secrets::read(config)?;
    certificates::authorities(&config.certificates)?;
    println!("the configuration is good");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn login_link(config: &Config, email: &str) -> anyhow::Result<()> {
    let (user, mut db) = find_user(config, email).await?;
    let token = token::from_random("", random::bytes());
    let expires_at = SystemClock.now() + LOGIN_LINK;
    users::create_login_link(&mut db, &token::hash(token.expose_secret()), user.id, expires_at).await?;
    pool::commit(db).await?;
    // After the #, where no browser sends it to any server.
    println!("{}/#/sign-in/{}", config.public.base_url.as_str(), token.expose_secret());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn create_token(config: &Config, email: &str, name: &str) -> anyhow::Result<()> {
    let (user, mut db) = find_user(config, email).await?;
    let token = token::from_random(API_TOKEN_PREFIX, random::bytes());
    let hash = token::hash(token.expose_secret());
    match users::create_api_token(&mut db, &hash, user.id, name, SystemClock.now()).await {
        Err(StoreError::Conflict { .. }) => {
            anyhow::bail!("{email} has a token named {name:?}: choose another name")
        }
        created => created?,
    }
    pool::commit(db).await?;
    println!("{}", token.expose_secret());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn revoke_token(config: &Config, email: &str, name: &str) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    match users::delete_api_token(&mut db, email, name).await {
        Err(StoreError::NotFound { .. }) => anyhow::bail!("{email} has no token named {name:?}"),
        deleted => deleted?,
    }
    pool::commit(db).await?;
    println!("the token {name:?} of {email} is revoked");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn drain(config: &Config, worker: &Label, drained: bool) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    match workers::drain(&mut db, worker, drained.then(|| SystemClock.now())).await {
        Err(StoreError::NotFound { .. }) => anyhow::bail!("the configuration declares no worker {worker}"),
        done => done?,
    }
    pool::commit(db).await?;
    if drained {
        println!(
            "{worker} gets no new apps, and is drained within minutes: `wisehosting workers` shows how far that is"
        );
    } else {
        println!("{worker} gets new apps again");
    }
    Ok(())
}

/// The user with this address, made if there is none, and a transaction to go on with.
async fn find_user(config: &Config, email: &str) -> anyhow::Result<(User, Transaction)> {
    let well_formed = email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    let printable = email.len() <= EMAIL_LEN_MAX && email.bytes().all(|b| b.is_ascii_graphic());
    ensure!(well_formed && printable, "--email: {email:?} is not an address such as you@example.org");
    let mut db = open_database(config).await?;
    let user = users::find_or_create(&mut db, UserId(random::uuid()), email, SystemClock.now())
        .await
        .context("is the control plane running? it creates the tables when it starts")?;
    Ok((user, db))
}

pub(crate) async fn open_database(config: &Config) -> anyhow::Result<Transaction> {
    let password = Secrets::read_database_password(config)?;
    let password = password.as_ref().map(|password| password.expose_secret());
    let pool = pool::open(&config.database.url, password).context("database.url")?;
    Ok(pool::begin(&pool).await?)
}
