//! What a worker must still know after a crash: jobs that it took and has not finished, and results, with the logs of their
//! jobs, that the control plane has not stored.
//!
//! Files of one job each, replaced whole or not at all. Invariants: a job that was taken ends in exactly one result, whatever
//! happens to this process in between; one that has a result is never taken for one that was cut off. Nothing here is secret: settings of apps are not written.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use wisehosting_domain::{
    id::{AppId, InstanceId, JobId},
    name::Label,
};
use wisehosting_protocol::payload::{Job, JobResult, Work};

use crate::build_log::WrittenLog;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {} in the worker's state folder", .path.display())]
pub struct JournalError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A job that was taken: as much of it as is needed to end it after a crash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Which job.
    pub job_id: JobId,
    /// Whose.
    pub app_id: AppId,
    /// The app's name.
    pub app: Label,
    /// The instance that it is about.
    pub instance_id: InstanceId,
    /// What to do again; none for a deploy, which is undone.
    pub redo: Option<Work>,
}

impl From<&Job> for Taken {
    fn from(job: &Job) -> Self {
        let redo = match &job.work {
            Work::Stop(_) | Work::Delete => Some(job.work.clone()),
            Work::Deploy(_) => None,
        };
        let (job_id, app_id, instance_id) = (job.job_id, job.app_id, job.instance_id);
        Self { job_id, app_id, app: job.app.clone(), instance_id, redo }
    }
}

/// The files.
#[derive(Debug)]
pub struct Journal {
    taken: PathBuf,
    results: PathBuf,
    logs: PathBuf,
}

impl Journal {
    /// The journal in this folder, which is made if it is missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let [taken, results, logs] = ["taken", "results", "logs"].map(|name| dir.join(name));
        let journal = Self { taken, results, logs };
        for dir in [&journal.taken, &journal.results, &journal.logs] {
            make_dir(dir)?;
        }
        Ok(journal)
    }

    /// Remembers that the job was taken.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn take(&self, job: &Job) -> Result<(), JournalError> {
        write(&file(&self.taken, job.job_id), &Taken::from(job))
    }

    /// Nobody knows whether it was remembered that a job was taken.
    pub(crate) fn cut_off(&self) -> JournalError {
        JournalError { path: self.taken.clone(), source: io::Error::other("the write was cut off") }
    }

    /// Remembers what a job has said, before it is remembered that it ended.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep_log(&self, log: &WrittenLog) -> Result<(), JournalError> {
        write(&file(&self.logs, log.job_id), log)
    }

    /// The logs that were not forgotten, of jobs that have `ended` with a result. Others, whose results were lost, are removed.
    ///
    /// # Errors
    /// The folder cannot be read, or a file not removed.
    pub(crate) fn logs(&self, ended: impl Fn(JobId) -> bool) -> Result<Vec<WrittenLog>, JournalError> {
        let (wanted, lost): (Vec<WrittenLog>, _) =
            read_all::<WrittenLog>(&self.logs)?.into_iter().partition(|log| ended(log.job_id));
        for log in lost {
            remove(&file(&self.logs, log.job_id))?;
        }
        Ok(wanted)
    }

    /// Remembers how a job ended, instead of that it was taken. Where the disk has no room for that, it is forgotten: an
    /// instance that serves must not be undone by the next start, and the control plane knows a job whose result is lost.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(&self, result: &JobResult) -> Result<(), JournalError> {
        let written = write(&file(&self.results, result.job_id), result);
        remove(&file(&self.taken, result.job_id))?;
        written
    }

    /// Forgets a job: the control plane has its result.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self, job_id: JobId) -> Result<(), JournalError> {
        // In this order: what is left of a job that was cut off here must not look as if it had not ended.
        for dir in [&self.taken, &self.logs, &self.results] {
            remove(&file(dir, job_id))?;
        }
        Ok(())
    }

    /// The jobs that were taken and not finished.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn taken(&self) -> Result<Vec<Taken>, JournalError> {
        let ended: HashSet<JobId> = self.results()?.into_iter().map(|result| result.job_id).collect();
        let mut taken: Vec<Taken> = read_all(&self.taken)?;
        taken.retain(|taken| !ended.contains(&taken.job_id));
        Ok(taken)
    }

    /// The results that were not forgotten.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn results(&self) -> Result<Vec<JobResult>, JournalError> {
        read_all(&self.results)
    }
}

fn file(dir: &Path, job_id: JobId) -> PathBuf {
    dir.join(format!("{job_id}.json"))
}

pub(crate) fn make_dir(dir: &Path) -> Result<(), JournalError> {
    fs::create_dir_all(dir).map_err(|source| JournalError { path: dir.to_owned(), source })
}

/// Replaces a file with a value as JSON.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), JournalError> {
    let failed = |source| JournalError { path: path.to_owned(), source };
    let bytes = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let new = path.with_extension("new");
    replace(path, &new, &bytes).map_err(|error| {
        // On a full disk it would hold the last of the room.
        let _ = fs::remove_file(&new);
        failed(error)
    })
}

/// A crash, also of the machine, leaves the old file or the new one.
fn replace(path: &Path, new: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(dir)?.sync_all()
}

/// Removes a file, for good: it is not there again after a crash of the machine. One that is gone is no error.
pub(crate) fn remove(path: &Path) -> Result<(), JournalError> {
    let removed = match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|source| JournalError { path: path.to_owned(), source })
}

/// The values of all files of a folder.
pub(crate) fn read_all<T: DeserializeOwned>(dir: &Path) -> Result<Vec<T>, JournalError> {
    let failed = |source| JournalError { path: dir.to_owned(), source };
    let mut all = Vec::new();
    let entries: Result<Vec<_>, _> =
        fs::read_dir(dir).map_err(failed)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = entries.map_err(failed)?;
    // The same folder is always read alike.
    paths.sort();
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = fs::read(&path).map_err(|source| JournalError { path: path.clone(), source })?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => all.push(value),
            // Written by another version of this program: there is no use in failing on it for ever.
            Err(error) => tracing::warn!(file = %path.display(), %error, "skipped an unreadable entry"),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use wisehosting_protocol::payload::{Outcome, Stop};

    fn job() -> Job {
        Job {
            job_id: JobId(Uuid::from_u128(1)),
            app_id: AppId(Uuid::from_u128(2)),
            app: "hello".parse().expect("a label"),
            instance_id: InstanceId(Uuid::from_u128(3)),
            work: Work::Stop(Stop { grace_ms: 1_000 }),
        }
    }

    fn result(job: &Job) -> JobResult {
        let (job_id, instance_id) = (job.job_id, job.instance_id);
        JobResult { job_id, instance_id, outcome: Outcome::Stopped, observed_at_ms: 1 }
    }

    #[test]
    fn a_job_that_ended_was_not_cut_off_whenever_the_worker_is_killed() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(dir.path()).expect("opened");
        let (job, result) = (job(), result(&job()));
        journal.take(&job).expect("taken");
        let taken = file(&journal.taken, job.job_id);
        let as_it_was = fs::read(&taken).expect("read");
        journal.finish(&result).expect("finished");
        fs::write(&taken, as_it_was).expect("killed before it was removed");
        assert!(journal.taken().expect("read").is_empty());
        journal.forget(job.job_id).expect("forgotten");
        assert!(journal.taken().expect("read").is_empty(), "nor after the result was stored");
    }

    #[test]
    fn a_job_whose_result_finds_no_room_was_not_cut_off() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(dir.path()).expect("opened");
        journal.take(&job()).expect("taken");
        fs::remove_dir(&journal.results).expect("nothing can be written there");
        journal.finish(&result(&job())).expect_err("it is told");
        make_dir(&journal.results).expect("made");
        assert!(journal.taken().expect("read").is_empty());
    }

    #[test]
    fn a_job_is_taken_then_finished_then_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(dir.path()).expect("opened");
        let job = job();
        journal.take(&job).expect("taken");
        let again = Journal::open(dir.path()).expect("opened after a crash");
        assert_eq!(again.taken().expect("read"), [Taken::from(&job)]);

        let result = result(&job);
        journal.finish(&result).expect("finished");
        assert!(again.taken().expect("read").is_empty());
        assert_eq!(again.results().expect("read"), [result]);

        journal.forget(job.job_id).expect("forgotten");
        journal.forget(job.job_id).expect("forgotten before");
        assert!(again.results().expect("read").is_empty());
    }

    #[test]
    fn an_unreadable_entry_is_skipped() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(dir.path()).expect("opened");
        fs::write(dir.path().join("results/x.json"), "{").expect("written");
        assert!(journal.results().expect("read").is_empty());
    }
}
