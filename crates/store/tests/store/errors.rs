//! Which errors of Postgres pass by themselves.

use sqlx::PgPool;
use wisehosting_domain::id::UserId;
use wisehosting_store::{MIGRATOR, users};

use crate::fixture::{NOW, id};

#[sqlx::test(migrator = "MIGRATOR")]
async fn what_passes_is_told_from_what_does_not(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    for (state, passes) in [
        ("40001", true),
        ("40P01", true),
        ("53100", true),
        ("53300", true),
        ("25006", true),
        ("57P01", true),
        ("08006", true),
        ("25P02", false),
        ("40002", false),
        ("57014", false),
        ("22001", false),
    ] {
        for statement in [
            format!(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"
            ),
            "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON users EXECUTE FUNCTION refuse()".to_owned(),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *conn).await.unwrap();
        }
        let refused = users::find_or_create(&mut conn, UserId(id(9)), "you@example.org", NOW).await;
        assert_eq!(refused.unwrap_err().is_unavailable(), passes, "{state}");
    }
}
