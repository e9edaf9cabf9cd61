//! The operator's commands about nodes that join. Like the others they talk to the database, which tells the running program.

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use secrecy::ExposeSecret as _;
use time::Duration;
use wisehosting_control_plane::{
    config::Config,
    nodes::{Role, declared},
};
use wisehosting_domain::name::Label;
use wisehosting_node::{
    clock::{Clock as _, SystemClock},
    join::proof,
    mesh::PublicKey,
};
use wisehosting_store::{
    StoreError, changes,
    join_tokens::{self, JoinToken, TokenId},
    joined_nodes::{self, JoinedNode},
    pool,
};

use crate::{
    commands::open_database,
    listing::{Listing, time},
};

/// What can be done.
#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// Manage the tokens that machines join with.
    #[command(subcommand)]
    Token(TokenCommand),
    /// List the nodes: those that the configuration declares, that have joined, and that were removed lately.
    List(Listing),
    /// Let a node that has joined have another key: from when it speaks with it, it has no other. For another machine in its place, say
    /// what `join` said there, and join again there.
    Rekey {
        /// The node's name.
        #[arg(long)]
        name: Label,
        /// The new public key.
        #[arg(long, value_name = "KEY")]
        public_key: PublicKey,
    },
    /// Remove a node that has joined: at once it is out of the mesh. Its apps move to other workers.
    Remove {
        /// The node's name.
        #[arg(long)]
        name: Label,
    },
}

/// What can be done about tokens.
#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a new join token. It is shown this once.
    Create {
        /// What joins with it: worker or edge.
        #[arg(long)]
        role: Role,
        /// The only name that it is good for [default: any]
        #[arg(long)]
        name: Option<Label>,
        /// For how long: so many minutes, hours or days, such as 30m, 1h or 7d.
        #[arg(long, value_parser = duration, default_value = "1h")]
        expires: Duration,
        /// How many nodes may join with it.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        uses: u16,
    },
    /// List the tokens that are good or were so lately.
    List(Listing),
    /// End a token. Who has joined with it stays.
    Revoke {
        /// Its id, as `list` shows it.
        #[arg(long, value_parser = token_id)]
        id: TokenId,
    },
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(config: &Config, command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::Token(TokenCommand::Create { role, name, expires, uses }) => {
            create_token(config, role, name, expires, uses).await
        }
        NodeCommand::Token(TokenCommand::List(listing)) => list_tokens(config, &listing).await,
        NodeCommand::Token(TokenCommand::Revoke { id }) => revoke_token(config, &id).await,
        NodeCommand::List(listing) => list(config, &listing).await,
        NodeCommand::Rekey { name, public_key } => rekey(config, &name, &public_key).await,
        NodeCommand::Remove { name } => remove(config, &name).await,
    }
}

async fn create_token(
    config: &Config,
    role: Role,
    node: Option<Label>,
    expires: Duration,
    uses_left: u16,
) -> anyhow::Result<()> {
    ensure!(
        config.join.is_some(),
        "no node can join: set [join] in the configuration, and restart the control plane"
    );
    let token = proof::JoinToken::generate();
    let now = SystemClock.now();
    let stored = JoinToken {
        id: token.id(),
        verifier: *token.verifier().as_bytes(),
        role,
        node,
        uses_left,
        created_at: now,
        expires_at: now + expires,
    };
    let mut db = open_database(config).await?;
    join_tokens::create(&mut db, &stored)
        .await
        .context("is the control plane running? it creates the tables when it starts")?;
    pool::notify(&mut db, changes::NODES).await?;
    pool::commit(db).await?;
    println!("{}", token.expose().expose_secret());
    Ok(())
}

async fn list_tokens(config: &Config, listing: &Listing) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    let tokens = join_tokens::list(&mut db).await?;
    let now = SystemClock.now();
    let rows = tokens.iter().map(|token| {
        let node = token.node.as_ref().map_or("any", Label::as_str);
        let state = match token {
            token if token.expires_at <= now => "expired",
            token if token.uses_left == 0 => "used up",
            _ => "good",
        };
        let uses = token.uses_left.to_string();
        [
            hex::encode(token.id),
            token.role.to_string(),
            node.to_owned(),
            uses,
            time(token.expires_at),
            state.to_owned(),
        ]
    });
    listing.print(["id", "role", "name", "uses_left", "expires_at", "state"], rows);
    Ok(())
}

async fn revoke_token(config: &Config, id: &TokenId) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    match join_tokens::revoke(&mut db, id).await {
        Err(StoreError::NotFound { .. }) => bail!("there is no join token {}", hex::encode(id)),
        revoked => revoked?,
    }
    pool::notify(&mut db, changes::NODES).await?;
    pool::commit(db).await?;
    println!("the join token {} is revoked", hex::encode(id));
    Ok(())
}

async fn list(config: &Config, listing: &Listing) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    let joined = joined_nodes::list(&mut db).await?;
    let declared: Vec<_> = declared(config).collect();
    let state = |node: &JoinedNode| match node.removed_at {
        Some(at) => format!("removed {}", time(at)),
        None if declared.iter().any(|other| *other.name == node.name) => "declared now".to_owned(),
        None if node.approved_public_key.is_some() => "joined, may take another key".to_owned(),
        None => format!("joined {}", time(node.joined_at)),
    };
    let of_declared = declared.iter().map(|node| {
        let peer = config.mesh.iter().flat_map(|mesh| &mesh.peers).find(|peer| peer.name == *node.name);
        let key = peer.map_or_else(|| "-".to_owned(), |peer| peer.public_key.to_string());
        [node.name.to_string(), node.role.to_string(), node.address.to_string(), key, "declared".to_owned()]
    });
    let of_joined = joined.iter().map(|node| {
        let key = PublicKey::from_bytes(node.public_key).to_string();
        [node.name.to_string(), node.role.to_string(), node.address.to_string(), key, state(node)]
    });
    listing.print(["name", "role", "address", "public_key", "state"], of_declared.chain(of_joined));
    Ok(())
}

async fn rekey(config: &Config, name: &Label, key: &PublicKey) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    let is_declared =
        config.mesh.iter().flat_map(|mesh| &mesh.peers).any(|peer| peer.keys().any(|other| other == *key));
    let others = joined_nodes::list(&mut db).await?;
    let is_others = |node: &&JoinedNode| node.public_key == *key.as_bytes() && node.removed_at.is_none();
    ensure!(!is_declared && !others.iter().any(|node| is_others(&node)), "the key {key} is a node's already");
    match joined_nodes::approve(&mut db, name, key.as_bytes()).await {
        Err(StoreError::NotFound { .. }) => bail!("no node {name} has joined"),
        approved => approved?,
    }
    pool::notify(&mut db, changes::NODES).await?;
    pool::commit(db).await?;
    println!("{name} may speak, or join again, with the key {key}, and loses the other one then");
    Ok(())
}

async fn remove(config: &Config, name: &Label) -> anyhow::Result<()> {
    let mut db = open_database(config).await?;
    match joined_nodes::remove(&mut db, name, SystemClock.now()).await {
        Err(StoreError::NotFound { .. }) => {
            bail!("no node {name} has joined; one that the configuration declares is removed there")
        }
        removed => removed?,
    }
    let revoked = join_tokens::revoke_held(&mut db, name).await?;
    pool::notify(&mut db, changes::NODES).await?;
    pool::commit(db).await?;
    let days = config.join.as_ref().map_or(0, |join| join.address_rest_days);
    println!("{name} is removed; its address is nobody else's for {days} days");
    for id in revoked {
        println!("the join token {} is revoked: {name} knows it", hex::encode(id));
    }
    Ok(())
}

fn token_id(text: &str) -> Result<TokenId, &'static str> {
    let mut id = TokenId::default();
    hex::decode_to_slice(text, &mut id).map_err(|_| "an id is 16 hexadecimal digits")?;
    Ok(id)
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    const WORDS: &str = "write a number and m, h or d, such as 30m, 1h or 7d, a year at most";
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(WORDS)?;
    let number: u32 = number.parse().map_err(|_| WORDS)?;
    let duration = match unit {
        "m" => Duration::minutes(number.into()),
        "h" => Duration::hours(number.into()),
        "d" => Duration::days(number.into()),
        _ => return Err(WORDS),
    };
    if duration.is_positive() && duration <= Duration::days(365) { Ok(duration) } else { Err(WORDS) }
}
