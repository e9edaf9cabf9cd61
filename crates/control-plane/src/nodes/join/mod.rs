//! `POST /v1/join/challenge` and `POST /v1/join`: a machine with an operator's token becomes a node.
//!
//! They are open to everybody, over plain http too: what is secret does not cross the wire, and the answer is proved
//! ([`wisehosting_node::join::proof`]). Invariants: without a proof nothing is stored, and nobody gets a connection to the database; a challenge is met
//! once with each token, whatever comes of it; who is refused learns why only after proving that it knows the token, and the reason is proved to it.

mod admission;
mod challenge;
mod tokens;

use admission::{Admission, Facts, Refusal, decide};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use time::{Duration, OffsetDateTime};
use wisehosting_node::{
    join::{
        messages::{self, Candidate, Challenge, JoinAnswer, JoinRequest, RefusalBody},
        proof::JoinKey,
    },
    mesh::{IpNet, MeshConfig, PrivateKey},
};
use wisehosting_store::{
    PgConnection, StoreError,
    changes::NODES,
    join_tokens::{self, JoinToken},
    joined_nodes, pool, resting_addresses,
};

use super::Declared;
use crate::{
    config::{Config, JoinConfig},
    error::Problem,
    extract::JsonBody,
    nodes,
    state::AppState,
};
pub use tokens::JoinTokens;

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
) -> Result<Json<JoinAnswer>, Refused> {
    let platform = Platform::of(&state)?;
    let now = state.clock.now();
    let challenged_at =
        challenge::made_at(&state.secrets.jwt, &request.challenge, now).ok_or_else(stale_challenge)?;
    let tokens = state.hub.join_tokens();
    if !tokens.are_known() {
        return Err(Problem::database_unavailable().into());
    }
    let key = tokens
        .verifier(&request.token_id)
        .and_then(|verifier| JoinKey::of_control_plane(platform.key, &verifier, &request.public_key));
    let proved = key.and_then(|key| Some((key.open(&request)?, key)));
    let (candidate, key) = proved.ok_or_else(|| refuse_unproved(&request))?;
    let prove = |problem: Problem| Refused::proved(problem, &key, &request);
    if !tokens.meet(&request.token_id, challenged_at) {
        return Err(prove(stale_challenge()));
    }
    let address = settle(&state, &platform, &request.token_id, challenged_at, &candidate).await;
    let mut answer = platform.answer(address.map_err(prove)?);
    answer.proof = key.of_answer(&request, &answer);
    Ok(Json(answer))
}

/// Decides about one who has proved itself, and carries it out; its address.
async fn settle(
    state: &AppState,
    platform: &Platform<'_>,
    token: &join_tokens::TokenId,
    challenged_at: OffsetDateTime,
    candidate: &Candidate,
) -> Result<std::net::IpAddr, Problem> {
    let mut db = state.begin().await?;
    joined_nodes::lock(&mut db).await?;
    // Another process may have met it before this one was started.
    if !join_tokens::meet_challenge(&mut db, token, challenged_at).await? {
        return Err(stale_challenge());
    }
    let admission = admit(&mut db, state, platform, token, candidate).await?;
    // Also after a refusal: the challenge is met.
    pool::commit(db).await?;
    let address = admission.map_err(|refusal| refuse(candidate, &refusal))?;
    // Its first words may come before the notice.
    nodes::declare(state).await?;
    tracing::info!(node.role = %candidate.role, node.name = %candidate.name, %address, "a node joined");
    Ok(address)
}

/// Decides, and stores what follows. Who has joined must be locked.
async fn admit(
    db: &mut PgConnection,
    state: &AppState,
    platform: &Platform<'_>,
    token: &join_tokens::TokenId,
    candidate: &Candidate,
) -> Result<Result<std::net::IpAddr, Refusal>, StoreError> {
    let now = state.clock.now();
    let rest = Duration::days(platform.join.address_rest_days.into());
    joined_nodes::forget_removed(db, now - rest).await?;
    resting_addresses::free(db, now - rest).await?;
    join_tokens::forget_expired(db, now - TOKEN_REMEMBERED).await?;
    // As it is now that nobody else uses it.
    let token: JoinToken = join_tokens::get(db, token).await?;
    let facts = Facts {
        declared: Declared::of(state),
        pool: platform.join.pool,
        mesh: platform.mesh.address,
        joined: joined_nodes::list(db).await?,
        resting: resting_addresses::list(db).await?,
        token,
        now,
    };
    let address = match decide(&facts, candidate) {
        Ok(Admission::Known(address)) => address,
        Ok(Admission::New(node)) => {
            pool::notify(db, NODES).await?;
            let before = facts.joined.iter().find(|joined| joined.name == node.name);
            if let Some(before) = before.filter(|before| before.address != node.address) {
                resting_addresses::give_up(db, before.address, now).await?;
            }
            joined_nodes::put(db, &node).await?;
            join_tokens::use_up(db, &facts.token.id).await?;
            node.address
        }
        Err(refusal) => return Ok(Err(refusal)),
    };
    join_tokens::note_holder(db, &facts.token.id, &candidate.name).await?;
    Ok(Ok(address))
}

/// Why a machine does not join, with the proof that the control plane says so, if the machine has proved itself.
#[derive(Debug)]
pub struct Refused {
    problem: Problem,
    proof: Vec<u8>,
}

impl Refused {
    fn proved(problem: Problem, key: &JoinKey, request: &JoinRequest) -> Self {
        let proof = key.of_refusal(request, &said(&problem)).to_vec();
        Self { problem, proof }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, proof: Vec::new() }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = RefusalBody { error: said(&self.problem), proof: self.proof };
        (self.problem.status(), Json(body)).into_response()
    }
}

fn said(problem: &Problem) -> messages::Refusal {
    let detail = problem.detail();
    messages::Refusal {
        code: detail.code.to_owned(),
        message: detail.message.clone(),
        hint: detail.hint.clone(),
    }
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

fn refuse(candidate: &Candidate, refusal: &Refusal) -> Problem {
    let Candidate { role, name, public_key, .. } = candidate;
    let reason = refusal.to_string();
    tracing::warn!(node.role = %role, node.name = %name, reason, "refused a node that wants to join");
    let problem = Problem::new(refusal.status(), refusal.code(), reason);
    match refusal.hint(name, public_key) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
