//! The database of a run: a real one, emptied between runs, that can be cut off.
//!
//! It refuses by itself what must never be: its triggers look at every change, whoever makes it.

use std::{sync::mpsc, thread};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use uuid::Uuid;
use wisehosting_control_plane::auth::token;
use wisehosting_domain::id::UserId;
use wisehosting_store::{MIGRATOR, users};

/// What the simulated user proves itself with.
pub(crate) const API_TOKEN: &str = "token-of-the-user";
const USER: UserId = UserId(Uuid::from_u128(1));
/// What the control plane's connections are called.
const CONTROL_PLANE: &str = "simulated";

/// What must hold for every row at every moment.
const NEVER: &str = "
    CREATE FUNCTION check_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'UPDATE' AND OLD.state IN ('succeeded', 'failed', 'cancelled') AND NEW.state <> OLD.state THEN
            RAISE EXCEPTION 'NEVER: a job ends twice: %, then %', OLD.state, NEW.state;
        END IF;
        IF NEW.kind = 'deploy' AND NEW.state = 'running' AND EXISTS (
            SELECT FROM jobs other WHERE other.app_id = NEW.app_id AND other.id <> NEW.id
                AND other.kind = 'deploy' AND other.state = 'running') THEN
            RAISE EXCEPTION 'NEVER: two deploys of one app run side by side';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER check_job BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION check_job();
    CREATE FUNCTION check_deployment() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF OLD.state IN ('superseded', 'stopped', 'failed', 'cancelled') AND NEW.state <> OLD.state THEN
            RAISE EXCEPTION 'NEVER: a deployment ends twice: %, then %', OLD.state, NEW.state;
        END IF;
        IF OLD.image_id IS NOT NULL AND NEW.image_id IS DISTINCT FROM OLD.image_id THEN
            RAISE EXCEPTION 'NEVER: a deployment is built twice';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER check_deployment BEFORE UPDATE ON deployments FOR EACH ROW EXECUTE FUNCTION check_deployment();
    CREATE FUNCTION check_instance() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF OLD.state = 'stopped' AND NEW.state <> OLD.state
            OR NEW.state = 'healthy' AND OLD.state NOT IN ('starting', 'healthy') THEN
            RAISE EXCEPTION 'NEVER: an instance that was % is %', OLD.state, NEW.state;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER check_instance BEFORE UPDATE ON instances FOR EACH ROW EXECUTE FUNCTION check_instance();
";

const EMPTY: &str = "
    DELETE FROM apps; DELETE FROM workers; DELETE FROM edges;
    UPDATE route_table SET generation = 0, domain = '';
";

pub(crate) struct Database {
    /// Of the control plane.
    pub(crate) pool: PgPool,
    /// Of the simulation, which sees the database always.
    pub(crate) admin: PgConnection,
    options: PgConnectOptions,
    cutter: Cutter,
    server: String,
    name: String,
}

impl Database {
    /// A database of this name on the server of the tests.
    pub(crate) async fn create(name: &str) -> Self {
        let server =
            std::env::var("DATABASE_URL").expect("DATABASE_URL: run it below `cargo xtask postgres --`");
        let on_server: PgConnectOptions = server.parse().unwrap();
        let mut connection = on_server.clone().disable_statement_logging().connect().await.unwrap();
        for text in [format!("DROP DATABASE IF EXISTS {name} (FORCE)"), format!("CREATE DATABASE {name}")] {
            connection.execute(AssertSqlSafe(text)).await.unwrap();
        }
        connection.close().await.unwrap();
        let options = on_server.database(name);
        let mut admin = options.clone().disable_statement_logging().connect().await.unwrap();
        MIGRATOR.run_direct(None, &mut admin, false).await.unwrap();
        admin.execute(NEVER).await.unwrap();
        let began = OffsetDateTime::UNIX_EPOCH;
        users::find_or_create(&mut admin, USER, "me@example.org", began).await.unwrap();
        users::create_api_token(&mut admin, &token::hash(API_TOKEN), USER, "simulation", began)
            .await
            .unwrap();
        // That its connections are ended is not worth a line of the log.
        let options = options.application_name(CONTROL_PLANE).options([("log_min_messages", "panic")]);
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.clone());
        let cutter = Cutter::start(options.clone().application_name("cutter").disable_statement_logging());
        Self { pool, admin, options, cutter, server, name: name.to_owned() }
    }

    /// For the next run.
    pub(crate) async fn empty(&mut self) {
        self.pool.set_connect_options(self.options.clone());
        self.admin.execute(EMPTY).await.unwrap();
    }

    /// What cuts the control plane off from the database, in the middle of whatever it does.
    pub(crate) fn cut(&self) -> impl FnOnce() + 'static {
        let (pool, cutter) = (self.pool.clone(), self.cutter.clone());
        let nowhere = self.options.clone().socket("/nonexistent");
        move || {
            pool.set_connect_options(nowhere);
            cutter.cut();
        }
    }

    /// Ends what [`cut`](Self::cut) began.
    pub(crate) fn mend(&self) {
        self.pool.set_connect_options(self.options.clone());
    }

    pub(crate) async fn remove(self) {
        self.pool.close().await;
        self.admin.close().await.unwrap();
        drop(self.cutter);
        let on_server: PgConnectOptions = self.server.parse().unwrap();
        let mut connection = on_server.connect().await.unwrap();
        let text = format!("DROP DATABASE {} (FORCE)", self.name);
        connection.execute(AssertSqlSafe(text)).await.unwrap();
    }

    /// The rows of a query, a text each.
    pub(crate) async fn rows(&mut self, query: &'static str) -> Vec<String> {
        let rows = sqlx::query(query).fetch_all(&mut self.admin).await.unwrap();
        rows.into_iter().map(|row| row.get(0)).collect()
    }

    /// The rows of a query, two texts each.
    pub(crate) async fn pairs(&mut self, query: &'static str) -> Vec<(String, String)> {
        let rows = sqlx::query(query).fetch_all(&mut self.admin).await.unwrap();
        rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

/// Ends the control plane's connections from a thread of its own, so that whoever waits for that need not let others run.
#[derive(Clone)]
struct Cutter(mpsc::Sender<mpsc::Sender<()>>);

impl Cutter {
    fn start(options: PgConnectOptions) -> Self {
        let (requests, received) = mpsc::channel::<mpsc::Sender<()>>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut connection = runtime.block_on(options.connect()).unwrap();
            while let Ok(done) = received.recv() {
                runtime.block_on(async {
                    let query = sqlx::query(
                        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = $1",
                    );
                    query.bind(CONTROL_PLANE).execute(&mut connection).await.unwrap();
                });
                done.send(()).unwrap();
            }
        });
        Self(requests)
    }

    fn cut(&self) {
        let (done, cut) = mpsc::channel();
        self.0.send(done).unwrap();
        cut.recv().unwrap();
    }
}
