//! What instances write: lines in chunks, as their workers sent them, and how far each instance's log is stored.
//!
//! Invariant: the lines of a message and the cursor after them are stored together or not at all, so a worker that goes on
//! from the cursor leaves nothing out and repeats nothing. The numbers of an app's lines grow in the order in which they
//! are stored, if its chunks are stored one after the other.

use crate::{
    StoreError,
    error::{doing, inconsistent},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;
use wisehosting_domain::{
    id::{AppId, InstanceId, UserId},
    name::Label,
};

/// Most lines of a chunk: what a line's number is made of, beside the chunk's.
const CHUNK_LINES_MAX: usize = 4_096;
/// Chunks that are read at a time: no more than these,
const PAGE_CHUNKS: i64 = 32;
/// and none after this much.
const PAGE_BYTES: i64 = 1024 * 1024;

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The platform itself.
    System,
}

impl Stream {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// A line that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLine {
    /// When it was written, by the worker's clock; kept to the nanosecond.
    pub at: OffsetDateTime,
    /// Where.
    pub stream: Stream,
    /// Without its end.
    pub text: String,
}

/// A line that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number: no two lines share one. Below 2^53 as long as there are less than 2^41 chunks.
    pub number: u64,
    /// Whose it is.
    pub app_id: AppId,
    /// Who wrote it.
    pub instance_id: InstanceId,
    /// When, by the worker's clock.
    pub at: OffsetDateTime,
    /// Where.
    pub stream: Stream,
    /// Without its end.
    pub text: String,
}

impl Line {
    /// What lines of several instances are sorted by.
    #[must_use]
    pub fn order(&self) -> (OffsetDateTime, u64) {
        (self.at, self.number)
    }
}

/// An instance's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The app.
    pub app_id: AppId,
    /// How far it is stored; none if nothing is.
    pub cursor: Option<String>,
}

/// Which lines are read.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// Only those written at this moment or later.
    pub since: Option<OffsetDateTime>,
    /// Only the newest so many.
    pub lines_max: usize,
    /// Only the newest with so much text together.
    pub bytes_max: usize,
}

struct Row {
    id: i64,
    app_id: Uuid,
    instance_id: Uuid,
    newest_ns: i64,
    lines: String,
}

impl Row {
    fn lines(&self) -> Result<impl Iterator<Item = Line> + use<>, StoreError> {
        let lines: Vec<(i64, Stream, String)> =
            serde_json::from_str(&self.lines).map_err(inconsistent("read a log"))?;
        let (app_id, instance_id) = (AppId(self.app_id), InstanceId(self.instance_id));
        Ok((number(self.id, 0)..).zip(lines).map(move |(number, (at, stream, text))| Line {
            number,
            app_id,
            instance_id,
            at: time(at),
            stream,
            text,
        }))
    }
}

fn number(chunk: i64, index: usize) -> u64 {
    u64::try_from(chunk).unwrap_or_default() * CHUNK_LINES_MAX as u64 + index as u64
}

fn nanoseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos()).unwrap_or(if at.unix_timestamp() < 0 {
        i64::MIN
    } else {
        i64::MAX
    })
}

fn time(nanoseconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn ids(apps: &[AppId]) -> Vec<Uuid> {
    apps.iter().map(|app| app.0).collect()
}

/// The log of an instance of `worker`; none if it has no such instance. The app is not deleted before the transaction
/// ends, which may be lost, as a whole, if Postgres is killed right after it: who sends logs begins anew from the cursor.
///
/// # Errors
/// The database is away.
pub async fn open(
    conn: &mut PgConnection,
    worker: &Label,
    id: InstanceId,
) -> Result<Option<Log>, StoreError> {
    let operation = "look up a log";
    sqlx::query!("SET LOCAL synchronous_commit = off").execute(&mut *conn).await.map_err(doing(operation))?;
    let row = sqlx::query!(
        r#"SELECT a.id, c.cursor AS "cursor?"
           FROM instances i JOIN deployments d ON d.id = i.deployment_id JOIN apps a ON a.id = d.app_id
           LEFT JOIN runtime_log_cursors c ON c.instance_id = i.id
           WHERE i.id = $1 AND i.worker = $2 FOR KEY SHARE OF i, a"#,
        id.0,
        worker.as_str()
    )
    .fetch_optional(conn)
    .await
    .map_err(doing(operation))?;
    Ok(row.map(|row| Log { app_id: AppId(row.id), cursor: row.cursor }))
}

/// Stores lines of an instance and returns them as they are from now on.
///
/// # Errors
/// The database is away.
pub async fn append(
    conn: &mut PgConnection,
    app_id: AppId,
    instance_id: InstanceId,
    lines: Vec<NewLine>,
    now: OffsetDateTime,
) -> Result<Vec<Line>, StoreError> {
    let mut stored = Vec::with_capacity(lines.len());
    for chunk in lines.chunks(CHUNK_LINES_MAX) {
        let times = chunk.iter().map(|line| nanoseconds(line.at));
        let newest_ns = times.max().unwrap_or_default();
        let texts: Vec<_> =
            chunk.iter().map(|line| (nanoseconds(line.at), line.stream, &line.text)).collect();
        let texts = serde_json::to_string(&texts).map_err(inconsistent("store a log"))?;
        let id = sqlx::query_scalar!(
            "INSERT INTO runtime_log_chunks (app_id, instance_id, newest_ns, lines, bytes, stored_at)
             VALUES ($1, $2, $3, $4, octet_length($4), $5) RETURNING id",
            app_id.0,
            instance_id.0,
            newest_ns,
            texts,
            now
        )
        .fetch_one(&mut *conn)
        .await
        .map_err(doing("store a log"))?;
        stored.extend((number(id, 0)..).zip(chunk).map(|(number, line)| Line {
            number,
            app_id,
            instance_id,
            at: line.at,
            stream: line.stream,
            text: line.text.clone(),
        }));
    }
    Ok(stored)
}

/// The log of an instance is stored up to here.
///
/// # Errors
/// The database is away.
pub async fn move_cursor(conn: &mut PgConnection, id: InstanceId, cursor: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO runtime_log_cursors (instance_id, cursor) VALUES ($1, $2)
         ON CONFLICT (instance_id) DO UPDATE SET cursor = excluded.cursor",
        id.0,
        // Postgres stores any character but this one.
        cursor.replace('\0', "\u{fffd}")
    )
    .execute(conn)
    .await
    .map_err(doing("move the cursor of a log"))
    .map(|_| ())
}

/// The newest lines of some of the owner's apps, oldest first.
///
/// # Errors
/// The database is away.
pub async fn tail(
    conn: &mut PgConnection,
    owner: UserId,
    apps: &[AppId],
    tail: Tail,
) -> Result<Vec<Line>, StoreError> {
    let mut since = tail.since.map_or(i64::MIN, nanoseconds);
    let apps = ids(apps);
    let (mut newest_ns, mut id) = (i64::MAX, i64::MAX);
    let mut lines: Vec<Line> = Vec::new();
    loop {
        let page = sqlx::query_as!(
            Row,
            "SELECT id AS \"id!\", app_id AS \"app_id!\", instance_id AS \"instance_id!\",
                    newest_ns AS \"newest_ns!\", lines AS \"lines!\"
             FROM (SELECT page.*, sum(bytes) OVER (ORDER BY newest_ns DESC, id DESC) - bytes AS bytes_before
                   FROM (SELECT c.* FROM runtime_log_chunks c JOIN apps a ON a.id = c.app_id
                         WHERE a.owner_id = $1 AND c.app_id = ANY($2)
                           AND c.newest_ns >= $3 AND (c.newest_ns, c.id) < ($4, $5)
                         ORDER BY c.newest_ns DESC, c.id DESC LIMIT $6) page) page
             WHERE bytes_before < $7 ORDER BY newest_ns DESC, id DESC",
            owner.0,
            &apps,
            since,
            newest_ns,
            id,
            PAGE_CHUNKS,
            PAGE_BYTES.into()
        )
        .fetch_all(&mut *conn)
        .await
        .map_err(doing("read a log"))?;
        let bytes: usize = page.iter().map(|row| row.lines.len()).sum();
        let is_last = (page.len() as i64) < PAGE_CHUNKS && (bytes as i64) < PAGE_BYTES;
        for row in &page {
            lines.extend(row.lines()?.filter(|line| nanoseconds(line.at) >= since));
            (newest_ns, id) = (row.newest_ns, row.id);
        }
        if shorten(&mut lines, tail) {
            // Older ones would have to go, too.
            since = lines.first().map_or(i64::MAX, |oldest| nanoseconds(oldest.at));
        }
        if is_last {
            return Ok(lines);
        }
    }
}

/// Sorts the lines and keeps the newest; whether there is no room for more.
fn shorten(lines: &mut Vec<Line>, tail: Tail) -> bool {
    lines.sort_by_key(Line::order);
    let mut bytes = 0;
    let fits = |line: &&Line| {
        bytes += line.text.len();
        bytes <= tail.bytes_max
    };
    let kept = lines.iter().rev().take(tail.lines_max).take_while(fits).count();
    let is_full = kept < lines.len() || kept == tail.lines_max;
    lines.drain(..lines.len() - kept);
    is_full
}

/// Lines of one of the owner's apps with greater numbers than this, in their order: the next ones, not all.
///
/// # Errors
/// The database is away.
pub async fn after(
    conn: &mut PgConnection,
    owner: UserId,
    app: AppId,
    last: u64,
) -> Result<Vec<Line>, StoreError> {
    let chunk = i64::try_from(last / CHUNK_LINES_MAX as u64).unwrap_or(i64::MAX);
    let page = sqlx::query_as!(
        Row,
        "SELECT id AS \"id!\", app_id AS \"app_id!\", instance_id AS \"instance_id!\",
                newest_ns AS \"newest_ns!\", lines AS \"lines!\"
         FROM (SELECT page.*, sum(bytes) OVER (ORDER BY id) - bytes AS bytes_before
               FROM (SELECT c.* FROM runtime_log_chunks c JOIN apps a ON a.id = c.app_id
                     WHERE a.owner_id = $1 AND c.app_id = $2 AND c.id >= $3 ORDER BY c.id LIMIT $4) page) page
         WHERE bytes_before < $5 ORDER BY id",
        owner.0,
        app.0,
        chunk,
        PAGE_CHUNKS,
        PAGE_BYTES.into()
    )
    .fetch_all(conn)
    .await
    .map_err(doing("read a log"))?;
    let mut lines = Vec::new();
    for row in page {
        lines.extend(row.lines()?.filter(|line| line.number > last));
    }
    Ok(lines)
}

/// Greater than the numbers of all lines that these apps have now, less than those of their next ones.
///
/// # Errors
/// The database is away.
pub async fn newest(conn: &mut PgConnection, apps: &[AppId]) -> Result<HashMap<AppId, u64>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT app_id, max(id) AS "id!" FROM runtime_log_chunks WHERE app_id = ANY($1) GROUP BY app_id"#,
        &ids(apps)
    )
    .fetch_all(conn)
    .await
    .map_err(doing("read a log"))?;
    Ok(rows.into_iter().map(|row| (AppId(row.app_id), number(row.id, CHUNK_LINES_MAX - 1))).collect())
}

/// What a chunk takes beside its lines: its row, and its entries in four indexes.
const CHUNK_BYTES: i32 = 256;

/// Removes what was stored before `before`, and the oldest of each app that takes more than this; returns how many chunks.
///
/// # Errors
/// The database is away.
pub async fn prune(
    conn: &mut PgConnection,
    before: OffsetDateTime,
    bytes_max_per_app: u64,
) -> Result<u64, StoreError> {
    let operation = "remove old logs";
    let old = sqlx::query!("DELETE FROM runtime_log_chunks WHERE stored_at < $1", before);
    let old = old.execute(&mut *conn).await.map_err(doing(operation))?;
    let surplus = sqlx::query!(
        "DELETE FROM runtime_log_chunks USING (
             SELECT id, sum(bytes + $2) OVER (PARTITION BY app_id ORDER BY id DESC) AS bytes_from_here
             FROM runtime_log_chunks
             WHERE app_id IN (SELECT app_id FROM runtime_log_chunks GROUP BY app_id HAVING sum(bytes + $2) > $1::bigint)
         ) AS sums
         WHERE runtime_log_chunks.id = sums.id AND sums.bytes_from_here > $1::bigint",
        i64::try_from(bytes_max_per_app).unwrap_or(i64::MAX),
        CHUNK_BYTES
    );
    let surplus = surplus.execute(conn).await.map_err(doing(operation))?;
    Ok(old.rows_affected() + surplus.rows_affected())
}
