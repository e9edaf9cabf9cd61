//! `/v1/join`, as machines ask it.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use time::Duration;
use wisehosting_control_plane::{nodes, router};
use wisehosting_domain::role::Role;
use wisehosting_node::{
    join::{
        messages::{CHALLENGE_PATH, Candidate, Challenge, JOIN_PATH, JoinAnswer, JoinRequest, RefusalBody},
        proof::{JoinKey, JoinToken},
    },
    mesh::{PrivateKey, PublicKey},
    random,
};
use wisehosting_store::{StoreError, join_tokens, joined_nodes, pool};

use crate::{
    client::{Answer, Client},
    server::Server,
};

/// Addresses .129 and .130, of which the first is a declared proxy's.
const JOIN: &str = r#"
[[edges]]
name = "proxy-2"
address = "10.50.0.129"
api_key_sha256 = "1111111111111111111111111111111111111111111111111111111111111111"
[mesh]
address = "10.50.0.1/24"
[join]
pool = "10.50.0.128/30"
endpoint = "198.51.100.1:51821"
"#;
const FREE: &str = "10.50.0.130";

fn server(pool: PgPool) -> Server {
    Server::with(pool, JOIN, |secrets| secrets.mesh_key = Some(PrivateKey::generate()))
}

/// What an operator makes: a token for workers, good from now for so long.
async fn token(server: &Server, uses_left: u16, good_for: Duration) -> JoinToken {
    let token = JoinToken::generate();
    let stored = join_tokens::JoinToken {
        id: token.id(),
        verifier: *token.verifier().as_bytes(),
        role: Role::Worker,
        node: None,
        uses_left,
        created_at: server.now(),
        expires_at: server.now() + good_for,
    };
    let mut db = pool::acquire(&server.state.pool).await.unwrap();
    join_tokens::create(&mut db, &stored).await.unwrap();
    nodes::declare(&server.state).await.unwrap();
    token
}

struct Machine {
    name: &'static str,
    key: PrivateKey,
    api_key: String,
}

impl Machine {
    fn new(name: &'static str) -> Self {
        Self { name, key: PrivateKey::generate(), api_key: hex::encode(random::bytes::<32>()) }
    }

    /// Its request with this token, to a challenge that it is given.
    async fn request(&self, server: &Server, token: &JoinToken) -> (JoinKey, JoinRequest) {
        let answer = server.nobody().send("POST", CHALLENGE_PATH, None).await.expect(200);
        let Challenge { challenge, public_key: hub } = serde_json::from_value(answer).unwrap();
        let key = JoinKey::of_token(token, &self.key, &hub).unwrap();
        let request = key.request(token.id(), challenge, random::bytes(), &self.candidate());
        (key, request)
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            role: Role::Worker,
            name: self.name.parse().unwrap(),
            public_key: self.key.public_key(),
            api_key_sha256: Sha256::digest(&self.api_key).into(),
        }
    }

    /// The address that it is given, by one who knows the token.
    async fn joins(&self, server: &Server, token: &JoinToken) -> String {
        let (key, request) = self.request(server, token).await;
        let answer: JoinAnswer = serde_json::from_value(post(server, &request).await.expect(200)).unwrap();
        assert!(key.proves_answer(&request, &answer));
        assert_eq!(answer.address.prefix_len(), 24);
        assert_eq!(answer.hub_endpoint.to_string(), "198.51.100.1:51821");
        assert_eq!((answer.url.as_str(), answer.mtu), ("http://10.50.0.1:8082", 1420));
        answer.address.addr().to_string()
    }

    /// Status and code of the refusal that it gets, and whether it is proved.
    async fn refused(&self, server: &Server, token: &JoinToken) -> String {
        let (key, request) = self.request(server, token).await;
        let answer = post(server, &request).await;
        let RefusalBody { error, proof } = serde_json::from_value(answer.body.clone()).unwrap();
        let proved = key.proves_refusal(&request, &error, &proof);
        assert_eq!(proved, error.code != "wrong_token", "{error:?}");
        refusal(answer)
    }

    /// Whether its agent is let in; its path goes by its role.
    async fn registers(&self, server: &Server) -> bool {
        let internal = Client::new(router::internal(server.state.clone()));
        let body = json!({ "name": self.name, "api_key": self.api_key, "version": "test" });
        internal.post("/v1/workers/register", body).await.status == 200
    }
}

async fn post(server: &Server, request: &JoinRequest) -> Answer {
    server.nobody().post(JOIN_PATH, serde_json::to_value(request).unwrap()).await
}

fn refusal(answer: Answer) -> String {
    let status = answer.status;
    format!("{status} {}", answer.expect_error(status).0)
}

/// Of `/v1/mesh`, by name.
async fn mesh_node(user: &Client, name: &str) -> Option<Value> {
    let mesh = user.get("/v1/mesh").await.expect(200);
    mesh["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).cloned()
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_machine_is_a_node_until_it_is_removed(pool: PgPool) {
    let server = server(pool);
    nodes::declare(&server.state).await.unwrap();
    let user = server.user("a@example.org").await;
    let once = token(&server, 1, Duration::HOUR).await;
    let mut machine = Machine::new("worker-3");
    assert!(!machine.registers(&server).await);
    assert_eq!(machine.joins(&server, &once).await, FREE);
    assert_eq!(machine.joins(&server, &once).await, FREE, "the same again, which takes no use of the token");
    assert!(machine.registers(&server).await);
    assert_eq!(mesh_node(&user, "worker-3").await.unwrap()["address"], FREE);
    let workers = user.get("/v1/workers").await.expect(200);
    assert_eq!(workers["workers"][1]["name"], "worker-3");
    assert_eq!(Machine::new("worker-4").refused(&server, &once).await, "403 token_used_up");

    // Another key for its name, until an operator says so.
    let other = token(&server, 2, Duration::HOUR).await;
    let first = std::mem::replace(&mut machine, Machine::new("worker-3"));
    let (_, request) = machine.request(&server, &other).await;
    let (code, _, message) = post(&server, &request).await.expect_error(409);
    assert_eq!((&*code, &*message), ("other_key", "worker-3 has joined with another key."));
    let mut db = pool::acquire(&server.state.pool).await.unwrap();
    joined_nodes::approve(&mut db, &request.name, machine.key.public_key().as_bytes()).await.unwrap();
    assert_eq!(refusal(post(&server, &request).await), "409 stale_challenge", "what was refused is met");
    assert!(!machine.registers(&server).await && first.registers(&server).await);
    assert_eq!(machine.joins(&server, &other).await, FREE);
    assert!(machine.registers(&server).await && !first.registers(&server).await);
    assert_eq!(first.refused(&server, &other).await, "409 other_key");

    joined_nodes::remove(&mut db, &request.name, server.now()).await.unwrap();
    nodes::declare(&server.state).await.unwrap();
    assert!(!machine.registers(&server).await);
    assert!(mesh_node(&user, "worker-3").await.is_none());
    assert_eq!(user.get("/v1/workers").await.expect(200)["workers"].as_array().unwrap().len(), 1);
    assert_eq!(machine.refused(&server, &other).await, "403 removed");

    // Its address is nobody else's for a while.
    let newer = token(&server, 3, Duration::HOUR).await;
    let successor = Machine::new("worker-4");
    assert_eq!(successor.refused(&server, &newer).await, "409 pool_exhausted");
    assert_eq!(machine.joins(&server, &newer).await, FREE, "an operator made a token since");
    joined_nodes::remove(&mut db, &request.name, server.now()).await.unwrap();
    let back = "UPDATE joined_nodes SET removed_at = removed_at - interval '30 days' + interval '1 minute'";
    sqlx::query(back).execute(&server.state.pool).await.unwrap();
    assert_eq!(successor.refused(&server, &newer).await, "409 pool_exhausted");
    let back = "UPDATE joined_nodes SET removed_at = removed_at - interval '2 minutes'";
    sqlx::query(back).execute(&server.state.pool).await.unwrap();
    assert_eq!(successor.joins(&server, &newer).await, FREE);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn who_proves_nothing_learns_nothing(pool: PgPool) {
    let server = server(pool);
    let good = token(&server, 5, Duration::HOUR).await;
    let machine = Machine::new("worker-3");
    let (key, request) = machine.request(&server, &good).await;

    let refused = async |change: &dyn Fn(&mut JoinRequest)| {
        let mut changed = request.clone();
        change(&mut changed);
        refusal(post(&server, &changed).await)
    };
    let other_key = PrivateKey::generate().public_key();
    assert_eq!(refused(&|r| r.public_key = other_key).await, "403 wrong_token");
    assert_eq!(refused(&|r| r.name = "worker-4".parse().unwrap()).await, "403 wrong_token");
    assert_eq!(refused(&|r| r.role = Role::Edge).await, "403 wrong_token");
    assert_eq!(refused(&|r| r.sealed_api_key_sha256 = [0; 48]).await, "403 wrong_token");
    // A key of which nobody needs the private half, and one of somebody else.
    let forged = |public_key| {
        let hub = server.state.secrets.mesh_key.as_ref().unwrap().public_key();
        let key = JoinKey::of_token(&good, &PrivateKey::generate(), &hub).unwrap();
        let candidate = Candidate { public_key, ..machine.candidate() };
        key.request(good.id(), request.challenge.clone(), [7; 32], &candidate)
    };
    for public_key in [other_key, PublicKey::from_bytes([0; 32])] {
        assert_eq!(refusal(post(&server, &forged(public_key)).await), "403 wrong_token");
    }
    assert_eq!(refused(&|r| r.proof = [0; 32]).await, "403 wrong_token");
    assert_eq!(refused(&|r| r.token_id = [0; 8]).await, "403 wrong_token");
    assert_eq!(refused(&|r| r.challenge = vec![0; 56]).await, "409 stale_challenge");
    assert_eq!(Machine::new("x").refused(&server, &JoinToken::generate()).await, "403 wrong_token");
    let old = token(&server, 5, Duration::seconds(-1)).await;
    assert_eq!(machine.refused(&server, &old).await, "403 token_expired");
    assert_eq!(Machine::new("worker-1").refused(&server, &good).await, "409 declared");

    // None of that has met the challenge of the first request, but what came later has.
    let stale = refusal(post(&server, &request).await);
    assert_eq!(stale, "409 stale_challenge", "worker-1 has met a later one");
    let (_, request) = machine.request(&server, &good).await;
    post(&server, &request).await.expect(200);
    assert_eq!(refusal(post(&server, &request).await), "409 stale_challenge", "a replay");
    let again = key.request(good.id(), request.challenge, random::bytes(), &machine.candidate());
    assert_eq!(refusal(post(&server, &again).await), "409 stale_challenge");

    let mut db = pool::acquire(&server.state.pool).await.unwrap();
    join_tokens::revoke(&mut db, &good.id()).await.unwrap();
    nodes::declare(&server.state).await.unwrap();
    assert_eq!(machine.refused(&server, &good).await, "403 wrong_token");
    assert!(matches!(join_tokens::revoke(&mut db, &good.id()).await, Err(StoreError::NotFound { .. })));
    assert_eq!(joined_nodes::list(&mut db).await.unwrap().len(), 1);
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT verifier FROM join_tokens").fetch_one(&server.state.pool).await.unwrap();
    assert_eq!(stored, old.verifier().as_bytes());
    assert!(!old.expose().expose_secret().contains(&old.verifier().to_string()));
}

/// What is refused without the database is refused also when there is none.
#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn who_proves_nothing_and_who_repeats_it_takes_no_connection_to_the_database(pool: PgPool) {
    let server = server(pool);
    let good = token(&server, 5, Duration::HOUR).await;
    let machine = Machine::new("worker-3");
    let (_, request) = machine.request(&server, &good).await;
    post(&server, &request).await.expect(200);
    server.state.pool.close().await;
    assert_eq!(refusal(post(&server, &request).await), "409 stale_challenge", "a replay");
    let forged = JoinRequest { proof: [0; 32], ..request };
    assert_eq!(refusal(post(&server, &forged).await), "403 wrong_token");
    assert_eq!(machine.refused(&server, &JoinToken::generate()).await, "403 wrong_token");
    assert_eq!(machine.refused(&server, &good).await, "503 database_unavailable");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_api_key_is_one_nodes(pool: PgPool) {
    let server = Server::with(pool, &JOIN.replace("/30", "/25"), |secrets| {
        secrets.mesh_key = Some(PrivateKey::generate());
    });
    let good = token(&server, 5, Duration::HOUR).await;
    let first = Machine::new("worker-3");
    first.joins(&server, &good).await;
    let second = Machine { api_key: first.api_key.clone(), ..Machine::new("worker-4") };
    assert_eq!(second.refused(&server, &good).await, "409 api_key_taken");
    assert!(first.registers(&server).await && !second.registers(&server).await);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn machines_that_join_side_by_side_get_addresses_of_their_own(pool: PgPool) {
    let more = JOIN.replace("10.50.0.128/30", "10.50.0.128/25");
    let server = Server::with(pool, &more, |secrets| secrets.mesh_key = Some(PrivateKey::generate()));
    let mut joining = tokio::task::JoinSet::new();
    let mut tokens = Vec::new();
    for _ in 0..4 {
        // Each with its own: with one, the older challenge of two would be refused.
        tokens.push(token(&server, 1, Duration::HOUR).await);
    }
    for (name, token) in ["worker-3", "worker-4", "worker-5", "worker-6"].into_iter().zip(tokens) {
        let server = Server { state: server.state.clone(), router: server.router.clone() };
        joining.spawn(async move { Machine::new(name).joins(&server, &token).await });
    }
    let mut addresses = joining.join_all().await;
    addresses.sort();
    assert_eq!(addresses, ["10.50.0.130", "10.50.0.131", "10.50.0.132", "10.50.0.133"]);
    assert_eq!(server.state.hub.joined().len(), 4);
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn what_the_configuration_declares_wins(pool: PgPool) {
    let server = server(pool);
    let machine = Machine::new("worker-3");
    machine.joins(&server, &token(&server, 1, Duration::HOUR).await).await;
    assert!(machine.registers(&server).await);
    // The next configuration declares another machine of that name.
    let declared = format!(
        "{JOIN}\n[[workers]]\nname = \"worker-3\"\naddress = \"10.50.0.12\"\napi_key_sha256 = \"{}\"\n",
        "2".repeat(64)
    );
    let next = Server::with(server.state.pool.clone(), &declared, |secrets| {
        secrets.mesh_key = Some(PrivateKey::generate());
    });
    nodes::declare(&next.state).await.unwrap();
    assert!(!machine.registers(&next).await);
    let user = next.user("a@example.org").await;
    assert_eq!(mesh_node(&user, "worker-3").await.unwrap()["address"], "10.50.0.12");

    // Or a host with the network that its address is of: it gets another one.
    let declared = JOIN.replace(
        "[join]\npool = \"10.50.0.128/30\"",
        "[[mesh.peers]]\nname = \"router\"\npublic_key = \"tWwDjMGWsHGtHzMXpfZBSwSyMFeYXaUWfhJ0rSy8Hm8=\"\n\
         allowed_ips = [\"10.50.0.128/28\"]\n[join]\npool = \"10.50.0.128/25\"",
    );
    let next = Server::with(server.state.pool.clone(), &declared, |secrets| {
        secrets.mesh_key = Some(PrivateKey::generate());
    });
    nodes::declare(&next.state).await.unwrap();
    assert!(!machine.registers(&next).await);
    let address = machine.joins(&next, &token(&next, 1, Duration::HOUR).await).await;
    assert_eq!(address, "10.50.0.144");
    assert!(machine.registers(&next).await);
}

/// The address of a host that is declared no longer, and the one that a node had before it was moved.
#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_address_that_was_given_up_rests(pool: PgPool) {
    let server = server(pool);
    nodes::declare(&server.state).await.unwrap();
    let next = async |declared: &str| {
        let next = Server::with(server.state.pool.clone(), declared, |secrets| {
            secrets.mesh_key = Some(PrivateKey::generate());
        });
        let token = token(&next, 5, Duration::HOUR).await;
        (next, token)
    };
    let without_proxy = &JOIN[JOIN.find("[mesh]").unwrap()..];
    let [a, b, c, d] = ["worker-3", "worker-4", "worker-5", "worker-6"].map(Machine::new);
    let (undeclared, good) = next(without_proxy).await;
    assert_eq!(a.joins(&undeclared, &good).await, FREE);
    assert_eq!(b.refused(&undeclared, &good).await, "409 pool_exhausted");
    let long_ago = "UPDATE resting_addresses SET given_up_at = given_up_at - interval '30 days'";
    sqlx::query(long_ago).execute(&server.state.pool).await.unwrap();
    assert_eq!(b.joins(&undeclared, &good).await, "10.50.0.129");

    let larger = without_proxy.replace("128/30", "128/29");
    let router = "[[mesh.peers]]\nname = \"router\"\npublic_key = \"tWwDjMGWsHGtHzMXpfZBSwSyMFeYXaUWfhJ0rSy8Hm8=\"\n\
                  allowed_ips = [\"10.50.0.130/31\"]\n[join]";
    let (around_it, good) = next(&larger.replace("[join]", router)).await;
    assert_eq!(a.joins(&around_it, &good).await, "10.50.0.132");
    let (undeclared, good) = next(&larger).await;
    assert_eq!(c.joins(&undeclared, &good).await, "10.50.0.131", "that was nobody's");
    assert_eq!(d.joins(&undeclared, &good).await, "10.50.0.133");
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn nobody_joins_where_nobody_said_so(pool: PgPool) {
    let server = Server::new(pool);
    let answer = server.nobody().send("POST", CHALLENGE_PATH, None).await;
    assert_eq!(refusal(answer), "404 join_disabled");
}
