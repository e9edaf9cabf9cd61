//! A bad configuration is found before anything is done, and the error names the setting.

use std::fs;

use sqlx::PgPool;

use crate::control_plane::Site;

const BAD_CONFIGURATION: i32 = 78;

#[sqlx::test(migrations = false)]
async fn a_good_configuration_is_said_to_be_good(pool: PgPool) {
    let site = Site::new(&pool);
    assert_eq!(site.printed_by(&["check-config"]), "the configuration is good");
}

#[sqlx::test(migrations = false)]
async fn an_error_names_the_setting(pool: PgPool) {
    let site = Site::new(&pool);
    let good = fs::read_to_string(site.config()).unwrap();
    for (from, to, words) in [
        ("127.0.0.1:0", "nowhere", "public.listen"),
        ("http://127.0.0.1", "127.0.0.1", "public.base_url"),
        ("/jwt", "/missing", "secrets.jwt_secret_file"),
        ("traefik_token_file", "traefik_token", "secrets.traefik_token"),
        ("master_key_file", "# none", "openssl rand -base64 32"),
        ("/master", "/traefik", "secrets.master_key_file: line 1 is not 32 bytes"),
        ("postgres://", "postgres://me:hunter2@", "database.url"),
        ("[apps]\n", "[apps]\ncolour = 1\n", "apps.colour"),
    ] {
        fs::write(site.config(), good.replacen(from, to, 1)).unwrap();
        for command in ["check-config", "run"] {
            let output = site.command(&[command]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{error}");
            assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
        }
    }
}
