//! The forwards in force: in the kernel, on disk and as they are told, always the same.
//!
//! Invariant: a change is on disk before it is in force, and when it cannot be put in force it is taken back on disk; one
//! change happens after the other, and none is left half done by who asked for it going away.

use super::{
    Book, Bounds, Forward, Proto, Refusal,
    file::{FileError, ForwardsFile, Loaded},
    ports,
};
use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use wisehosting_network::{ForwardTable, Forwards, ForwardsMark, ForwardsOp, InterfaceName, NetworkError};

/// How often it is looked whether anybody has changed something, such as a firewall that empties nftables when it is loaded again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the whole table is read all the same.
const READ_EVERY: Duration = Duration::from_secs(30);

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It asks for what cannot be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no such forward.
    #[error("there is no such forward")]
    Missing,
    /// The disk.
    #[error("cannot keep the forwards")]
    File(#[from] FileError),
    /// The kernel.
    #[error("cannot put the forwards in force")]
    Network(#[from] NetworkError),
    /// The kernel's tables of sockets.
    #[error("cannot read which ports are in use")]
    Ports(#[source] io::Error),
}

/// Where forwards lead.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// The interface.
    pub interface: InterfaceName,
    /// What is allowed; its ports are those that the gateway needs whether somebody listens on them now or not.
    pub bounds: Bounds,
}

/// Keeps the forwards of this gateway. Clones are the same keeper.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mesh: Mesh,
    file: ForwardsFile,
    table: ForwardTable,
    book: Mutex<Book>,
}

impl Keeper {
    /// Puts in force what was saved. What cannot be in force, a file without forwards or a forward that is not allowed any
    /// more, is set aside with an error in the log, and the gateway begins with the rest.
    ///
    /// # Errors
    /// The file cannot be read or set aside, or the kernel refuses.
    pub async fn start(mesh: Mesh, file: ForwardsFile) -> Result<Self, KeeperError> {
        let book = match file.load()? {
            Loaded::Forwards(saved) => allowed_part(saved, &mesh.bounds, &file)?,
            Loaded::Corrupt(aside, error) => {
                tracing::error!(
                    file = %aside.display(),
                    error = &error as &dyn Error,
                    "the saved forwards are not readable: nothing is forwarded; what was saved is kept in this file"
                );
                Book::default()
            }
        };
        let table = ForwardTable::open()?;
        table.replace(&forwards(&mesh, &book)).await?;
        tracing::info!(forwards = book.all().count(), "forwarding");
        Ok(Self(Arc::new(Inner { mesh, file, table, book: Mutex::new(book) })))
    }

    /// Those of one protocol, by name.
    pub async fn list(&self, proto: Proto) -> Vec<Forward> {
        self.0.book.lock().await.of(proto).cloned().collect()
    }

    /// Adds a forward, or puts it in the place of the one of its name. Says whether there was none.
    ///
    /// # Errors
    /// It is refused, or cannot be kept or put in force; then all is as it was.
    pub async fn put(&self, forward: Forward) -> Result<bool, KeeperError> {
        let keeper = self.clone();
        to_the_end(async move {
            let mut current = keeper.0.book.lock().await;
            let mut bounds = keeper.0.mesh.bounds.clone();
            bounds.own_ports.extend(ports::listening().map_err(KeeperError::Ports)?);
            let (book, new) = current.with(forward.clone(), &bounds)?;
            keeper.change(&mut current, book).await?;
            tracing::info!(
                forward.id = forward.forward_id,
                public_port = forward.public_port,
                target = %forward.target_ip,
                "a port is forwarded"
            );
            Ok(new)
        })
        .await
    }

    /// Removes a forward.
    ///
    /// # Errors
    /// `Missing`, or it cannot be removed; then all is as it was.
    pub async fn remove(&self, proto: Proto, forward_id: String) -> Result<(), KeeperError> {
        let keeper = self.clone();
        to_the_end(async move {
            let mut current = keeper.0.book.lock().await;
            let book = current.without(proto, &forward_id).ok_or(KeeperError::Missing)?;
            keeper.change(&mut current, book).await?;
            tracing::info!(forward.id = forward_id, "a port is forwarded no longer");
            Ok(())
        })
        .await
    }

    /// Looks every second whether the forwards are in force still, and repairs them, until `shutdown`. They stay in force
    /// afterwards.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut failing, mut unmarked) = (false, false);
        // As it was when nothing had to be done, and when that was.
        let mut right: Option<(ForwardsMark, Instant)> = None;
        while shutdown.run_until_cancelled(look.tick()).await.is_some() {
            let book = self.0.book.lock().await;
            // Before all is read, so that no change falls in between.
            let mark = self.0.table.mark().await;
            if let Err(error) = &mark
                && !unmarked
            {
                let error: &dyn Error = error;
                tracing::warn!(
                    error,
                    "cannot see whether anybody has changed the forwards: they are read every second"
                );
            }
            unmarked = mark.is_err();
            let is_same = |(before, at): &(ForwardsMark, Instant)| {
                mark.as_ref().is_ok_and(|mark| mark == before) && at.elapsed() < READ_EVERY
            };
            if right.as_ref().is_some_and(is_same) {
                continue;
            }
            let repaired = self.reconcile(&book).await;
            match &repaired {
                Ok(repairs) if repairs.is_empty() => {}
                Ok(repairs) => tracing::warn!(?repairs, "repaired the forwards that somebody changed"),
                Err(_) if failing => {}
                Err(error) => tracing::error!(error = error as &dyn Error, "cannot repair the forwards"),
            }
            failing = repaired.is_err();
            right = mark
                .ok()
                .filter(|_| repaired.is_ok_and(|ops| ops.is_empty()))
                .map(|mark| (mark, Instant::now()));
        }
    }

    async fn change(&self, current: &mut Book, book: Book) -> Result<(), KeeperError> {
        self.save(&book).await?;
        if let Err(error) = self.reconcile(&book).await {
            if let Err(error) = self.reconcile(current).await {
                tracing::error!(error = &error as &dyn Error, "cannot take a failed change back yet");
            }
            self.save(current).await?;
            return Err(error.into());
        }
        *current = book;
        Ok(())
    }

    async fn reconcile(&self, book: &Book) -> Result<Vec<ForwardsOp>, NetworkError> {
        self.0.table.reconcile(&forwards(&self.0.mesh, book)).await
    }

    async fn save(&self, book: &Book) -> Result<(), KeeperError> {
        let (file, book) = (self.0.file.clone(), book.clone());
        match tokio::task::spawn_blocking(move || file.save(&book)).await {
            Ok(saved) => Ok(saved?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Those of the saved forwards that are allowed; if any is not, the file is kept.
fn allowed_part(saved: Vec<Forward>, bounds: &Bounds, file: &ForwardsFile) -> Result<Book, FileError> {
    let (mut book, mut refused) = (Book::default(), false);
    for forward in saved {
        let forward_id = forward.forward_id.clone();
        match book.with(forward, bounds) {
            Ok((with, _)) => book = with,
            Err(refusal) => {
                tracing::error!(forward.id = forward_id, reason = %refusal, "a saved forward is not allowed any more");
                refused = true;
            }
        }
    }
    if refused {
        let aside = file.keep_copy()?;
        file.save(&book)?;
        tracing::error!(file = %aside.display(), "the saved forwards, with those that are not allowed, are kept in this file");
    }
    Ok(book)
}

/// Carries work out even if nobody waits for it any more.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn forwards(mesh: &Mesh, book: &Book) -> Forwards {
    Forwards { mesh: mesh.interface.clone(), targets: book.targets() }
}
