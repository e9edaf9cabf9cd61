//! The program ends when it is told to, whoever still listens.

use sqlx::PgPool;

use crate::control_plane::Site;

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn an_open_stream_does_not_hold_it_up(pool: PgPool) {
    let site = Site::new(&pool);
    site.let_postgres_come();
    let token = site.printed_by(&["token", "create", "--email", "a@example.org", "--name", "laptop"]);
    let control_plane = site.run();
    control_plane.until_health_is(200).await;
    let client = wisehosting_node::http::client().unwrap();
    let events = client.get(format!("{}/v1/events", control_plane.url)).bearer_auth(&token);
    let stream = events.send().await.unwrap();
    assert_eq!(stream.status().as_u16(), 200);

    let (code, log) = control_plane.stop();
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|line| line.contains("cut off")), "it waited for the stream: {log:#?}");
    drop(stream);
}
