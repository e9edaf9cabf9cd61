//! The lines of some apps of one user: the newest, and then all that come.
//!
//! Invariant: who follows gets every line that is stored after those he had, in their order for each app, once: from the
//! rings, or, if he is slow or was away, from Postgres. What he has is the number of the last line of each app.

use tokio::sync::watch;
use wisehosting_domain::id::{AppId, UserId};
use wisehosting_store::{
    PgConnection, StoreError, pool,
    runtime_log::{self, Line, Tail},
};

use crate::state::AppState;

/// Text of one answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which lines to begin with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    pub(super) tail: usize,
    pub(super) since: Option<time::OffsetDateTime>,
}

/// The newest lines, by the time at which they were written.
pub(super) async fn newest(
    state: &AppState,
    db: &mut PgConnection,
    owner: UserId,
    apps: &[AppId],
    query: Query,
) -> Result<Vec<Line>, StoreError> {
    if let Some(lines) = state.logs.tail(apps, query.since, query.tail, state.clock.now()) {
        return Ok(lines);
    }
    let tail = Tail { since: query.since, lines_max: query.tail, bytes_max: ANSWER_BYTES_MAX };
    runtime_log::tail(db, owner, apps, tail).await
}

/// Somebody who follows.
pub(super) struct Follower {
    state: AppState,
    owner: UserId,
    /// With the number of the last line that he has.
    apps: Vec<(AppId, u64)>,
    news: watch::Receiver<()>,
}

impl Follower {
    /// One who has the lines of the apps up to these numbers.
    pub(super) fn after(state: AppState, owner: UserId, apps: Vec<(AppId, u64)>) -> Self {
        let news = state.logs.news();
        Self { state, owner, apps, news }
    }

    /// One who has all that there is, and the newest of it.
    pub(super) async fn from_newest(
        state: AppState,
        db: &mut PgConnection,
        owner: UserId,
        apps: &[AppId],
        query: Query,
    ) -> Result<(Self, Vec<Line>), StoreError> {
        let stored = runtime_log::newest(db, apps).await?;
        let mut last = Vec::new();
        for app in apps {
            state.logs.begin(*app, stored.get(app).copied().unwrap_or_default());
            last.push((*app, state.logs.newest(*app).unwrap_or_default()));
        }
        let mut lines = newest(&state, db, owner, apps, query).await?;
        // What came meanwhile comes next.
        lines.retain(|line| last.iter().any(|(app, number)| *app == line.app_id && line.number <= *number));
        Ok((Self::after(state, owner, last), lines))
    }

    /// What he has: the numbers of the last lines, in the order of the apps.
    pub(super) fn place(&self) -> String {
        let numbers: Vec<String> = self.apps.iter().map(|(_, last)| last.to_string()).collect();
        numbers.join("-")
    }

    /// The numbers of a place in the log of these apps, if it is one.
    pub(super) fn parse_place(apps: &[AppId], place: &str) -> Option<Vec<(AppId, u64)>> {
        let numbers: Vec<u64> = place.split('-').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        (numbers.len() == apps.len()).then(|| apps.iter().copied().zip(numbers).collect())
    }

    /// Waits for lines that he does not have.
    pub(super) async fn next(&mut self) -> Result<Vec<Line>, StoreError> {
        loop {
            self.news.mark_unchanged();
            let (mut lines, mut apps) = (Vec::new(), self.apps.clone());
            for (app, last) in &mut apps {
                let new = match self.state.logs.after(*app, *last) {
                    Some(new) => new,
                    None => stored(&self.state, self.owner, *app, *last).await?,
                };
                *last = new.last().map_or(*last, |line| line.number);
                lines.extend(new);
            }
            if !lines.is_empty() {
                self.apps = apps;
                lines.sort_by_key(Line::order);
                return Ok(lines);
            }
            // The sender is in the state.
            let _ = self.news.changed().await;
        }
    }
}

async fn stored(state: &AppState, owner: UserId, app: AppId, last: u64) -> Result<Vec<Line>, StoreError> {
    let mut db = pool::acquire(&state.pool).await?;
    let lines = runtime_log::after(&mut db, owner, app, last).await?;
    if lines.is_empty() {
        // There is nothing: its ring need not be doubted any more.
        state.logs.begin(app, last);
    }
    Ok(lines)
}
