//! The folder of one job.
//!
//! Invariant: it is gone when the job ends, however it ends; what a crash has left is gone after the next start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};
use wisehosting_domain::id::JobId;

/// A folder that is removed when this value is dropped, which may take a while.
#[derive(Debug)]
pub struct Workspace(PathBuf);

impl Workspace {
    /// A new folder for the job.
    pub(crate) fn create(work_dir: &Path, job: JobId) -> io::Result<Self> {
        let path = work_dir.join(job.to_string());
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a job's folder is left behind until the next start");
        }
    }
}

/// Removes the folders that jobs of an earlier run have left. Anything that is not named like one stays.
pub(crate) fn remove_leftovers(work_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(work_dir)?;
    for entry in fs::read_dir(work_dir)? {
        let entry = entry?;
        let is_job = entry.file_name().to_str().is_some_and(|name| name.parse::<JobId>().is_ok());
        if is_job {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_folder_goes_with_its_job_or_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let job = JobId(Uuid::from_u128(1));
        let workspace = Workspace::create(dir.path(), job).expect("made");
        let path = workspace.path().to_owned();
        fs::write(path.join("file"), "").expect("written");
        drop(workspace);
        assert!(!path.exists());

        std::mem::forget(Workspace::create(dir.path(), job).expect("made"));
        fs::write(dir.path().join("not-a-job"), "").expect("written");
        remove_leftovers(dir.path()).expect("removed");
        assert!(!path.exists() && dir.path().join("not-a-job").exists());
    }
}
