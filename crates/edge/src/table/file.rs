//! The last good table on disk: what an edge serves after a restart while the control plane is away.
//!
//! The file is replaced in one step and only after its bytes are on disk, so a crash leaves the old table or the new.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};
use wisehosting_domain::routes::RouteTable;
use wisehosting_node::private_file;

const NAME: &str = "routes.json";

/// Why the table cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The directory cannot be made.
    #[error("cannot create the state directory {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// It cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is not a table.
    #[error("{} is not a route table", .0.display())]
    Parse(PathBuf, #[source] serde_json::Error),
    /// It cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// The file in the state directory.
#[derive(Clone, Debug)]
pub struct TableFile {
    directory: PathBuf,
}

impl TableFile {
    /// The file in this directory, which is made if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(directory: &Path) -> Result<Self, FileError> {
        fs::create_dir_all(directory).map_err(|error| FileError::Directory(directory.to_owned(), error))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The table that was saved last; none if none ever was.
    ///
    /// # Errors
    /// There is a file that is not one.
    pub fn load(&self) -> Result<Option<RouteTable>, FileError> {
        let path = self.directory.join(NAME);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| FileError::Parse(path, error))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::Read(path, error)),
        }
    }

    /// Saves a table. Blocks until the disk has it.
    ///
    /// # Errors
    /// It cannot be written; the one before is still there.
    pub fn save(&self, table: &RouteTable) -> Result<(), FileError> {
        let path = self.directory.join(NAME);
        let written = serde_json::to_vec(table).map_err(io::Error::from);
        let written = written.and_then(|bytes| private_file::write(&path, &bytes));
        written.map_err(|error| FileError::Write(path, error))
    }

    /// Saves a table on a thread that may wait for the disk.
    ///
    /// # Errors
    /// As for [`Self::save`].
    pub(crate) async fn save_elsewhere(&self, table: RouteTable) -> Result<(), FileError> {
        let file = self.clone();
        let saved = tokio::task::spawn_blocking(move || file.save(&table)).await;
        saved.unwrap_or_else(|end| Err(FileError::Write(self.directory.join(NAME), end.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_table_comes_back_as_it_was_saved() {
        let directory = tempfile::tempdir().unwrap();
        let file = TableFile::open(&directory.path().join("state")).unwrap();
        assert!(file.load().unwrap().is_none());
        for generation in [3, 4] {
            let table = RouteTable { generation, ..RouteTable::default() };
            file.save(&table).unwrap();
            assert_eq!(file.load().unwrap(), Some(table));
        }
        let path = directory.path().join("state").join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{").unwrap();
        assert!(matches!(file.load(), Err(FileError::Parse(..))));
    }
}
