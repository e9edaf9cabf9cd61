//! `POST /v1/join/challenge` and `POST /v1/join`: a machine with an operator's token becomes a node.
//!
//! They are open to everybody, over plain http too: what is secret does not cross the wire, and the answer is proved
//! ([`wisehosting_node::join::proof`]). Invariants: without a proof nothing is stored; a challenge is met once with each token, whatever
//! comes of it; who is refused learns why only after proving that it knows the token.

mod admission;
mod challenge;

use std::collections::BTreeSet;

use admission::{Admission, Facts, Refusal, decide};
use axum::{Json, extract::State, http::StatusCode};
use time::{Duration, OffsetDateTime};
use wisehosting_node::{
    join::{
        messages::{Challenge, JoinAnswer, JoinRequest},
        proof::JoinKey,
    },
    mesh::{IpNet, MeshConfig, MeshPeer, PrivateKey, PublicKey},
};
use wisehosting_store::{
    PgConnection, StoreError,
    changes::NODES,
    join_tokens::{self, JoinToken},
    joined_nodes, pool,
};

use crate::{
    config::{Config, JoinConfig},
    error::Problem,
    extract::JsonBody,
    nodes,
    state::AppState,
};

/// For how long it is said of a token that it has expired, and no longer that there is none.
const TOKEN_REMEMBERED: Duration = Duration::days(7);

/// What it takes to let nodes join.
struct Platform<'a> {
    config: &'a Config,
    join: &'a JoinConfig,
    mesh: &'a MeshConfig,
    key: &'a PrivateKey,
}

impl<'a> Platform<'a> {
    fn of(state: &'a AppState) -> Result<Self, Problem> {
        let config = &state.config;
        match (&config.join, &config.mesh, &state.secrets.mesh_key) {
            (Some(join), Some(mesh), Some(key)) => Ok(Self { config, join, mesh, key }),
            _ => Err(Problem::new(StatusCode::NOT_FOUND, "join_disabled", "No node can join this platform.")
                .hint("Set [join] in the control plane's configuration, or declare the node there.")),
        }
    }

    /// What a node needs to know. Not proved yet.
    fn answer(&self, address: std::net::IpAddr) -> JoinAnswer {
        let hub_address = self.mesh.address.addr();
        let url = std::net::SocketAddr::new(hub_address, self.config.internal.listen.port());
        JoinAnswer {
            address: IpNet::new(address, self.mesh.address.prefix_len()).unwrap_or_else(|_| address.into()),
            hub_address,
            hub_endpoint: self.join.endpoint,
            url: format!("http://{url}"),
            mtu: self.mesh.mtu,
            proof: [0; 32],
        }
    }
}

/// Gives a machine something to prove itself with.
///
/// # Errors
/// 404: nodes cannot join.
pub async fn create_challenge(State(state): State<AppState>) -> Result<Json<Challenge>, Problem> {
    let public_key = Platform::of(&state)?.key.public_key();
    let challenge = challenge::make(&state.secrets.jwt, state.clock.now());
    Ok(Json(Challenge { challenge, public_key }))
}

/// Gives a machine its place in the mesh, the same one each time.
///
/// # Errors
/// 403: it does not know the token, or the token is not good for this; 404: nodes cannot join; 409: the challenge is not good any more, or
/// what it asks for is another's; 503: the database is away.
pub async fn join(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Result<Json<JoinAnswer>, Problem> {
    let platform = Platform::of(&state)?;
    let now = state.clock.now();
    let challenged_at =
        challenge::made_at(&state.secrets.jwt, &request.challenge, now).ok_or_else(stale_challenge)?;
    let mut db = state.begin().await?;
    let token = match join_tokens::get(&mut db, &request.token_id).await {
        Err(StoreError::NotFound { .. }) => return Err(refuse_unproved(&request)),
        token => token?,
    };
    let key = JoinKey::of_control_plane(platform.key, &PublicKey::from_bytes(token.verifier));
    if !key.proves_request(&request) {
        return Err(refuse_unproved(&request));
    }
    joined_nodes::lock(&mut db).await?;
    if !join_tokens::meet_challenge(&mut db, &token.id, challenged_at).await? {
        return Err(stale_challenge());
    }
    let admission = admit(&mut db, &platform, &token.id, &request, now).await?;
    // Also after a refusal: the challenge is met.
    pool::commit(db).await?;
    let address = admission.map_err(|refusal| refuse(&request, &refusal))?;
    // Its first words may come before the notice.
    nodes::declare(&state).await?;
    tracing::info!(node.role = %request.role, node.name = %request.name, %address, "a node joined");
    let mut answer = platform.answer(address);
    answer.proof = key.of_answer(&request, &answer);
    Ok(Json(answer))
}

/// Decides, and stores what follows. Who has joined must be locked.
async fn admit(
    db: &mut PgConnection,
    platform: &Platform<'_>,
    token: &join_tokens::TokenId,
    request: &JoinRequest,
    now: OffsetDateTime,
) -> Result<Result<std::net::IpAddr, Refusal>, StoreError> {
    let rest = Duration::days(platform.join.address_rest_days.into());
    joined_nodes::forget_removed(db, now - rest).await?;
    join_tokens::forget_expired(db, now - TOKEN_REMEMBERED).await?;
    // As it is now that nobody else uses it.
    let token: JoinToken = join_tokens::get(db, token).await?;
    let facts = Facts {
        declared: declared(platform),
        pool: platform.join.pool,
        mesh: platform.mesh.address,
        joined: joined_nodes::list(db).await?,
        token,
        now,
    };
    match decide(&facts, request) {
        Ok(Admission::Known(address)) => Ok(Ok(address)),
        Ok(Admission::New(node)) => {
            pool::notify(db, NODES).await?;
            joined_nodes::put(db, &node).await?;
            join_tokens::use_up(db, &facts.token.id).await?;
            Ok(Ok(node.address))
        }
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Names, keys and networks that the configuration gives away itself.
fn declared(platform: &Platform<'_>) -> admission::Declared {
    let Platform { config, mesh, key, .. } = platform;
    let nodes: Vec<_> = nodes::declared(config).collect();
    let mut names: BTreeSet<_> = mesh.peers.iter().map(|peer| peer.name.clone()).collect();
    names.extend(nodes.iter().map(|node| node.name.clone()));
    let mut keys: BTreeSet<_> = mesh.peers.iter().flat_map(MeshPeer::keys).collect();
    keys.insert(key.public_key());
    let mut networks: Vec<IpNet> = mesh.peers.iter().flat_map(|peer| peer.allowed_ips.clone()).collect();
    networks.extend(nodes.iter().map(|node| IpNet::from(node.address)));
    networks.push(mesh.address.addr().into());
    admission::Declared { names, keys, networks }
}

fn stale_challenge() -> Problem {
    let message = "The challenge is not good any more.";
    Problem::new(StatusCode::CONFLICT, "stale_challenge", message).hint("Ask for a new one.")
}

/// The same words for every machine that proves nothing.
fn refuse_unproved(request: &JoinRequest) -> Problem {
    let JoinRequest { role, name, .. } = request;
    tracing::warn!(node.role = %role, node.name = %name, "refused a node that wants to join: it does not know a token");
    Problem::new(StatusCode::FORBIDDEN, "wrong_token", "There is no such join token.").hint(
        "It may have expired or been revoked: make one with `wisehosting-control-plane node token create`.",
    )
}

fn refuse(request: &JoinRequest, refusal: &Refusal) -> Problem {
    let JoinRequest { role, name, public_key, .. } = request;
    let reason = refusal.to_string();
    tracing::warn!(node.role = %role, node.name = %name, reason, "refused a node that wants to join");
    let problem = Problem::new(refusal.status(), refusal.code(), reason);
    match refusal.hint(name, public_key) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
