//! The login of a private repository, from the REST API to the worker.

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use tower::ServiceExt as _;
use wisehosting_control_plane::{auth::token, router};
use wisehosting_domain::{login::Login, state::DeploymentState};
use wisehosting_node::{clock::Clock as _, random};
use wisehosting_protocol::payload::{Outcome, Work};
use wisehosting_store::{MIGRATOR, pool, users};

use crate::{
    agent::Agent,
    platform::{MASTER_KEY, Platform, USER},
    sealing::{NEXT_KEY, key_id, start, tables_with},
};

const PASSWORD: &str = "token-3e9c0b7f5a81";
const APP: &str = "/v1/apps/hello";

/// Somebody who uses the REST API, and all that was answered.
struct Client<'a> {
    platform: &'a Platform,
    token: String,
    answers: String,
}

impl<'a> Client<'a> {
    async fn new(platform: &'a Platform) -> Self {
        let token = token::from_random("", random::bytes());
        let (hash, name) = (token::hash(token.expose_secret()), &token.expose_secret()[..8]);
        let mut db = pool::begin(&platform.state.pool).await.unwrap();
        users::create_api_token(&mut db, &hash, USER, name, platform.clock.now()).await.unwrap();
        pool::commit(db).await.unwrap();
        Self { platform, token: token.expose_secret().to_owned(), answers: String::new() }
    }

    async fn send(&mut self, method: &str, path: &str, body: Value) -> Value {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let answer = router::public(self.platform.state.clone()).oneshot(request).await.unwrap();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        self.answers += &String::from_utf8_lossy(&body);
        serde_json::from_slice(&body).unwrap()
    }

    /// The login with which the app's next deployment is fetched.
    async fn deployed(&mut self, worker: &mut Agent) -> Option<Login> {
        self.send("POST", "/v1/apps/hello/deployments", json!({})).await;
        let job = worker.deploy_job().await;
        let Work::Deploy(deploy) = &job.work else { panic!("no deploy") };
        let login = deploy.login.clone();
        worker.finish(&job, Outcome::Failed { message: "that is enough".to_owned() }).await;
        login
    }
}

fn hello(repository: &str) -> Value {
    json!({
        "name": "hello",
        "repository": repository,
        "login": { "username": "me", "password": PASSWORD },
    })
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_login_reaches_the_worker_and_stands_in_no_answer_and_no_row(pool: PgPool) {
    let platform = Platform::start(pool.clone()).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut client = Client::new(&platform).await;
    let refused = client.send("POST", "/v1/apps", hello("http://git.example.org/a.git")).await;
    assert_eq!(refused["error"]["field"], "login", "{refused}");
    let app = client.send("POST", "/v1/apps", hello("https://git.example.org/a.git")).await;
    assert_eq!(app["settings"]["login"]["username"], "me", "{app}");
    assert!(app["settings"]["login"]["set_at"].is_string(), "{app}");

    let expected = Login { username: "me".parse().unwrap(), password: PASSWORD.into() };
    assert_eq!(client.deployed(&mut worker).await, Some(expected));
    for path in ["/v1/apps", APP, "/v1/apps/hello/deployments", "/v1/workers"] {
        client.send("GET", path, json!({})).await;
    }
    let bad = json!({ "login": { "password": format!("{PASSWORD}\n") } });
    let refused = client.send("PATCH", APP, bad).await;
    assert_eq!(refused["error"]["field"], "login.password", "{refused}");
    assert!(!client.answers.contains(PASSWORD), "{}", client.answers);
    assert_eq!(tables_with(&pool, PASSWORD).await, [""; 0]);

    let app = client.send("PATCH", APP, json!({ "login": null })).await;
    assert_eq!(app["settings"]["login"], Value::Null);
    assert_eq!(client.deployed(&mut worker).await, None);
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_login_is_good_for_the_host_that_it_was_given_for(pool: PgPool) {
    let platform = Platform::start(pool.clone()).await;
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let mut client = Client::new(&platform).await;
    client.send("POST", "/v1/apps", hello("https://git.example.org/a.git")).await;
    let app = client.send("PATCH", APP, json!({ "repository": "https://git.example.org/b.git" })).await;
    assert_eq!(app["settings"]["login"]["username"], "me", "the same host");
    for elsewhere in
        ["http://git.example.org/a.git", "https://git.example.org:444/a", "https://example.org/a"]
    {
        let app = client.send("PATCH", APP, json!({ "repository": elsewhere })).await;
        assert_eq!(app["settings"]["login"], Value::Null, "{elsewhere}");
        assert_eq!(client.deployed(&mut worker).await, None, "{elsewhere}");
        let back = json!({ "repository": "https://git.example.org/a.git", "login": hello("")["login"] });
        client.send("PATCH", APP, back).await;
    }
    assert!(client.deployed(&mut worker).await.is_some());

    // Who can write to the database alone cannot have it sent elsewhere.
    let moved = "UPDATE apps SET repository = 'https://example.org/a',
                 login = jsonb_set(login, '{origin}', '\"https://example.org\"')";
    sqlx::query(moved).execute(&pool).await.unwrap();
    let queued = client.send("POST", "/v1/apps/hello/deployments", json!({})).await;
    let id = queued["id"].as_str().unwrap().parse().unwrap();
    let failed = platform.reaches(id, DeploymentState::Failed).await;
    let message = failed.message.unwrap();
    assert!(message.contains("the login for https://example.org cannot be read"), "{message}");
    platform.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_login_is_sealed_anew_by_the_next_key(pool: PgPool) {
    let platform = start(&pool, &[MASTER_KEY]).await;
    let mut client = Client::new(&platform).await;
    client.send("POST", "/v1/apps", hello("https://git.example.org/a.git")).await;
    platform.stop().await;
    start(&pool, &[NEXT_KEY, MASTER_KEY]).await.stop().await;

    let platform = start(&pool, &[NEXT_KEY]).await;
    let key = "SELECT login -> 'password' ->> 'k' FROM apps";
    let key: String = sqlx::query_scalar(key).fetch_one(&pool).await.unwrap();
    assert_eq!(key, key_id(NEXT_KEY));
    let mut worker = Agent::worker(&platform, "worker-1").await;
    let login = Client::new(&platform).await.deployed(&mut worker).await;
    assert_eq!(login.unwrap().password.expose(), PASSWORD);
    platform.stop().await;
}
