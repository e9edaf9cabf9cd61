//! Git repositories that the tests deploy.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

/// A repository in a folder of its own.
pub(crate) struct Repository(TempDir);

impl Repository {
    /// One whose first commit is a copy of one of the project's examples.
    pub(crate) fn of_example(name: &str) -> Self {
        let repository = Self(super::state_dir());
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        copy(&example, repository.0.path());
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.commit("The example");
        repository
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    /// Commits a new content of a file.
    pub(crate) fn change(&self, file: &str, content: &str) {
        fs::write(self.0.path().join(file), content).unwrap();
        self.commit(&format!("Change {file}"));
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    fn git(&self, arguments: &[&str]) {
        let status = Command::new("git")
            .args(["-C", self.path(), "-c", "user.name=Tester", "-c", "user.email=tester@example.org"])
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .status()
            .unwrap();
        assert!(status.success(), "git {arguments:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
