//! The forwards on disk: what is in force again after a restart, before anybody is answered.
//!
//! Invariant: the file is replaced in one step, and one that cannot be read is never overwritten: it is set aside.

use super::{Book, Forward};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};
use wisehosting_node::private_file;

const NAME: &str = "forwards.json";

/// Why the forwards cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// What cannot be in force cannot be set aside.
    #[error("{} holds what cannot be in force, and cannot be set aside", .0.display())]
    SetAside(PathBuf, #[source] io::Error),
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    forwards: Vec<Forward>,
}

/// What was found.
#[derive(Debug)]
pub enum Loaded {
    /// The forwards that were saved last; none if none ever were.
    Forwards(Vec<Forward>),
    /// Something else. It is kept under the name given here.
    Corrupt(PathBuf, serde_json::Error),
}

/// The file in the state directory.
#[derive(Clone, Debug)]
pub struct ForwardsFile(PathBuf);

impl ForwardsFile {
    /// The file in this directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self(directory.join(NAME))
    }

    /// Reads it. What is no list of forwards is set aside, under a name that nothing has yet.
    ///
    /// # Errors
    /// It cannot be read, or not be set aside.
    pub fn load(&self) -> Result<Loaded, FileError> {
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::Forwards(Vec::new())),
            Err(error) => return Err(FileError::Read(self.0.clone(), error)),
        };
        match serde_json::from_slice::<Content>(&bytes) {
            Ok(content) => Ok(Loaded::Forwards(content.forwards)),
            Err(why) => {
                let aside = self.free_name();
                fs::rename(&self.0, &aside).map_err(|error| FileError::SetAside(self.0.clone(), error))?;
                Ok(Loaded::Corrupt(aside, why))
            }
        }
    }

    /// Saves the forwards. Blocks until the disk has them.
    ///
    /// # Errors
    /// The file cannot be written; the one before is still there.
    pub fn save(&self, book: &Book) -> Result<(), FileError> {
        let failed = |error| FileError::Write(self.0.clone(), error);
        let content = Content { forwards: book.all().cloned().collect() };
        let bytes = serde_json::to_vec_pretty(&content).map_err(|error| failed(error.into()))?;
        private_file::write(&self.0, &bytes).map_err(failed)
    }

    /// Keeps a copy, under a name that nothing has yet, before something else is saved.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn keep_copy(&self) -> Result<PathBuf, FileError> {
        let aside = self.free_name();
        fs::copy(&self.0, &aside).map_err(|error| FileError::SetAside(self.0.clone(), error))?;
        Ok(aside)
    }

    fn free_name(&self) -> PathBuf {
        let names = (1_u32..).map(|number| self.0.with_extension(format!("json.set-aside-{number}")));
        let mut free = names.filter(|name| !name.exists());
        free.next().unwrap_or_else(|| self.0.with_extension("json.set-aside"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forwards::Bounds;

    #[test]
    fn forwards_come_back_as_they_were_saved() {
        let directory = tempfile::tempdir().unwrap();
        let file = ForwardsFile::new(directory.path());
        let text = r#"{"forwards":[{"forward_id":"a","public_port":1,"target_ip":"10.50.0.2","target_port":2,"proto":"udp"}]}"#;
        let content: Content = serde_json::from_str(text).unwrap();
        let bounds = Bounds { targets: vec!["10.50.0.0/24".parse().unwrap()], ..Bounds::default() };
        let (book, _) = Book::default().with(content.forwards[0].clone(), &bounds).unwrap();
        file.save(&book).unwrap();
        assert!(matches!(file.load().unwrap(), Loaded::Forwards(loaded) if loaded == content.forwards));
    }

    #[test]
    fn what_is_no_list_of_forwards_is_set_aside_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = ForwardsFile::new(directory.path());
        for (number, text) in [(1, ""), (2, "{\"forwards\": [")] {
            fs::write(directory.path().join(NAME), text).unwrap();
            let Loaded::Corrupt(aside, _) = file.load().unwrap() else { panic!("{text} was taken") };
            assert_eq!(aside, directory.path().join(format!("forwards.json.set-aside-{number}")));
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
        }
        assert!(matches!(file.load().unwrap(), Loaded::Forwards(forwards) if forwards.is_empty()));
    }
}
