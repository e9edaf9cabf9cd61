//! The repository that is deployed: `examples/hello`, with a new commit before each deploy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

pub(crate) struct Repository(PathBuf);

impl Repository {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello");
        fs::create_dir(path)?;
        for entry in fs::read_dir(&example).with_context(|| format!("read {}", example.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), path.join(entry.file_name()))?;
        }
        let repository = Self(path.to_owned());
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        Ok(repository)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Commits a new version of the app.
    pub(crate) fn change(&self, version: &str) -> anyhow::Result<()> {
        fs::write(self.0.join("VERSION"), format!("{version}\n"))?;
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", version])
    }

    fn git(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.0).args(["-c", "user.name=Bench", "-c", "user.email=bench@example.org"]);
        git.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        ensure!(git.status().context("start git")?.success(), "git {arguments:?} failed");
        Ok(())
    }
}
