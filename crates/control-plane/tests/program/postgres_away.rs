//! Postgres may be away when the program starts and go away later: it says so, waits, and goes on by itself.

use sqlx::PgPool;

use crate::control_plane::Site;

#[sqlx::test(migrations = false)]
async fn it_says_so_and_recovers_by_itself(pool: PgPool) {
    let site = Site::new(&pool);
    let control_plane = site.run();
    control_plane.logs("waiting for the database");
    assert!(control_plane.until_health_is(503).await.contains("cannot reach its database"));
    assert_eq!(control_plane.get("/").await.0, 200, "the dashboard is there all the same");

    site.let_postgres_come();
    control_plane.logs("the database is back");
    control_plane.until_health_is(200).await;

    site.take_postgres_away();
    let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(others).execute(&pool).await.unwrap();
    control_plane.until_health_is(503).await;

    site.let_postgres_come();
    control_plane.until_health_is(200).await;
    assert_eq!(control_plane.stop().0, Some(0));
}
