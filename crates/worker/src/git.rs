//! Fetching one commit of a repository.
//!
//! git runs as a program with arguments, never through a shell. Invariants: no value of a user stands where git takes
//! options; only the transports that are allowed here are used; git connects to no address that `destination` refuses,
//! and follows nobody to another one, so a login goes to no other host; git asks for nothing, reads no settings of this host or
//! of the user that the worker runs as, and is ended with all its children when its time is over.

mod destination;
mod login;

use destination::{Destination, Refused};
use login::{LoginHome, scrub};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    ffi::OsStr,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};
use wisehosting_containers::HelperGroup;
use wisehosting_domain::{
    login::Login,
    source::{Commit, Repository, Source},
};

/// Of what git says, so much is kept at least.
const WORDS_BYTES_MAX: usize = 64 * 1024;

/// Why a commit was not fetched. Shown to the app's owner.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The worker does not take its own folders.
    #[error("{0} is a folder of the worker, and this platform does not deploy those: use an https address")]
    LocalNotAllowed(Repository),
    /// It is where only the worker itself may connect to.
    #[error("{0} is inside of this platform, which deploys from outside only: use a public address")]
    Inside(Repository),
    /// Its host answers with another address.
    #[error("{0} leads to another address. Use that one: it may end in .git, or begin with https.")]
    Moved(Repository),
    /// Nothing is at the address.
    #[error("There is no repository at {0}. Check the address.")]
    DoesNotExist(Repository),
    /// It is not public, or not there: many hosts answer alike for both.
    #[error("{0} wants a login: it is private or does not exist. Set one for the app, or check the address.")]
    NeedsLogin(Repository),
    /// The login is wrong, or good for something else.
    #[error(
        "{0} refused the app's login. Check that its token is still valid and may read this repository, or set another."
    )]
    LoginRefused(Repository),
    /// Whoever listens on the way could read the login.
    #[error(
        "{0} is no https address, and a login is only sent over TLS. Use https, or remove the app's login."
    )]
    LoginInClear(Repository),
    /// It has no commits.
    #[error("The repository {0} is empty. Push a commit to it, then deploy again.")]
    Empty(Repository),
    /// It has no such branch or tag.
    #[error("{0} has no branch or tag {1:?}. Push it, or choose another.")]
    NoBranch(Repository, String),
    /// It has no such commit.
    #[error("{0} has no commit {1}. Push it, or choose another.")]
    NoCommit(Repository, Commit),
    /// Its host does not answer.
    #[error("The host of {repository} cannot be reached ({reason}). Check the address, or try again later.")]
    Unreachable {
        /// What was to be cloned.
        repository: Repository,
        /// git's own words.
        reason: String,
    },
    /// It took too long.
    #[error("Fetching {0} took longer than {seconds} s and was stopped. Is it very large?", seconds = .1.as_secs())]
    Timeout(Repository, Duration),
    /// Unpacking it took too much memory.
    #[error(
        "Fetching {repository} took more than the {} MiB of memory that a build has, and was stopped. Make its files \
         smaller, or have the worker's operator raise the limit.",
        .limit_bytes / (1024 * 1024)
    )]
    OutOfMemory {
        /// What was to be cloned.
        repository: Repository,
        /// What git may use.
        limit_bytes: u64,
    },
    /// Anything else that git says.
    #[error("git could not fetch {repository}: {reason}")]
    Other {
        /// What was to be cloned.
        repository: Repository,
        /// git's own words.
        reason: String,
    },
    /// git could not be run, or its folder not be made.
    #[error("the worker could not run git")]
    Run(#[source] io::Error),
}

/// How repositories are fetched.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Whether folders of this host may be fetched, repositories from any address, and private ones without TLS.
    pub allow_local: bool,
    /// This host's address in the mesh, from whose hosts nothing is fetched.
    pub mesh_address: IpAddr,
    /// Certificates of authorities to trust in the place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A folder in memory, for the login while git uses it. Without one it is beside the files.
    pub login_dir: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Duration,
    /// What bounds git; nothing if none.
    pub group: Option<Arc<HelperGroup>>,
}

impl Fetch {
    /// Puts the source's files into `dir/source`, which must not exist, and says which commit they are. No file has the
    /// login when it returns, or is dropped.
    ///
    /// # Errors
    /// Why not, in a sentence for the app's owner.
    pub async fn run(&self, source: &Source, login: Option<&Login>, dir: &Path) -> Result<Commit, GitError> {
        if source.repository.is_local() && !self.allow_local {
            return Err(GitError::LocalNotAllowed(source.repository.clone()));
        }
        if login.is_some() && !source.repository.is_https() && !self.allow_local {
            return Err(GitError::LoginInClear(source.repository.clone()));
        }
        let fetched = tokio::time::timeout(self.timeout, self.fetch(source, login, dir)).await;
        let fetched =
            fetched.unwrap_or_else(|_| Err(GitError::Timeout(source.repository.clone(), self.timeout)));
        // git itself only knows that a part of it has gone.
        let used_up = || self.group.as_ref().and_then(|group| group.memory_used_up());
        fetched.map_err(|error| match used_up() {
            Some(limit_bytes) => GitError::OutOfMemory { repository: source.repository.clone(), limit_bytes },
            None => error,
        })
    }

    async fn fetch(&self, source: &Source, login: Option<&Login>, dir: &Path) -> Result<Commit, GitError> {
        let destination =
            if self.allow_local { None } else { Some(self.destination(&source.repository).await?) };
        let login_home = match &self.login_dir {
            Some(memory) => memory.join(dir.file_name().unwrap_or_default()).with_extension("login"),
            None => dir.join("login"),
        };
        let git =
            Git { home: dir.join("home"), login_home, tree: dir.join("source"), fetch: self, destination };
        git.run(source, login).await
    }

    async fn destination(&self, repository: &Repository) -> Result<Destination, GitError> {
        Destination::resolve(repository, self.mesh_address).await.map_err(|refused| match refused {
            Refused::Inside => GitError::Inside(repository.clone()),
            Refused::Unknown(reason) => GitError::Unreachable { repository: repository.clone(), reason },
        })
    }
}

struct Git<'a> {
    home: PathBuf,
    /// Made for as long as it is needed.
    login_home: PathBuf,
    tree: PathBuf,
    fetch: &'a Fetch,
    /// The only one that is connected to; any if none.
    destination: Option<Destination>,
}

impl Git<'_> {
    async fn run(&self, source: &Source, login: Option<&Login>) -> Result<Commit, GitError> {
        self.prepare().await.map_err(GitError::Run)?;
        let repository = &source.repository;
        self.succeed(repository, ["init", "--quiet", "--initial-branch=deploy"]).await?;
        let url = address(repository);
        let branch = source.branch.as_ref().map(ToString::to_string);
        let wanted = match &source.commit {
            Some(commit) => commit.to_string(),
            None => branch.unwrap_or_else(|| "HEAD".to_owned()),
        };
        self.fetch(source, login, &url, &wanted).await?;
        self.succeed(repository, ["checkout", "--quiet", "--detach", "FETCH_HEAD"]).await?;
        let head = self.succeed(repository, ["rev-parse", "HEAD"]).await?;
        head.trim().parse().map_err(|_| GitError::Other { repository: repository.clone(), reason: head })
    }

    /// The one step that talks to the repository's host, and the only one that has the login.
    async fn fetch(
        &self,
        source: &Source,
        login: Option<&Login>,
        url: &str,
        wanted: &str,
    ) -> Result<(), GitError> {
        let make = |login| LoginHome::create(self.login_home.clone(), &source.repository, login);
        let home = login.map(make).transpose().map_err(GitError::Run)?;
        let arguments = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--"];
        let fetched = self.git(home.as_ref(), arguments.into_iter().chain([url, wanted])).await;
        let fetched = fetched.map_err(GitError::Run)?;
        if fetched.status.success() {
            return Ok(());
        }
        let said = scrub(&String::from_utf8_lossy(&fetched.stderr), login);
        Err(explain(source, login.is_some(), &said))
    }

    /// Its own home has the only settings that git reads of a user: that a folder of another user may be fetched.
    async fn prepare(&self) -> io::Result<()> {
        tokio::fs::create_dir_all(&self.home).await?;
        tokio::fs::create_dir_all(&self.tree).await?;
        let trust = if self.fetch.allow_local { "[safe]\n\tdirectory = *\n" } else { "" };
        tokio::fs::write(self.home.join(".gitconfig"), trust).await
    }

    /// Runs a command that fails only when something is wrong with this host or the repository's content.
    async fn succeed<const N: usize>(
        &self,
        repository: &Repository,
        arguments: [&str; N],
    ) -> Result<String, GitError> {
        let output = self.git(None, arguments).await.map_err(GitError::Run)?;
        let said = String::from_utf8_lossy(&output.stderr);
        // A checkout that could not write a file says so, and ends as if it could.
        let failure = said.lines().find_map(|line| line.strip_prefix("error: "));
        if output.status.success() && failure.is_none() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = failure.map_or_else(|| last_line(&said), str::to_owned);
        Err(GitError::Other { repository: repository.clone(), reason })
    }

    /// Runs git; with a login's home, it answers hosts that ask for one.
    async fn git(
        &self,
        login: Option<&LoginHome>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> io::Result<Output> {
        let mut command = Command::new("git");
        for setting in ["protocol.allow=never", "protocol.https.allow=always", "protocol.http.allow=always"] {
            command.args(["-c", setting]);
        }
        if self.fetch.allow_local {
            command.args(["-c", "protocol.file.allow=always"]);
        }
        if let Some(pin) = self.destination.as_ref().and_then(Destination::pin) {
            command.args(["-c", &format!("http.curloptResolve={pin}")]);
        }
        if let Some(file) = &self.fetch.ca_file {
            // It wins over the setting.
            command.env("GIT_SSL_CAINFO", file);
        }
        if login.is_some() {
            command.args(["-c", "credential.helper=store"]);
        }
        command
            .args(["-c", "http.followRedirects=false"])
            .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"])
            .arg("-C")
            .arg(&self.tree)
            .args(arguments)
            .env("HOME", login.map_or(self.home.as_path(), LoginHome::path))
            // What this host's own git is told to do is not for repositories of others: a filter that downloads goes anywhere.
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "")
            .env("LC_ALL", "C")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        if let (Some(bounding), Some(id)) = (&self.fetch.group, child.id()) {
            bounding.take_in(id);
        }
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(|id| Group(Pid::from_raw(id)));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (status, stdout, stderr) =
            tokio::try_join!(child.wait(), last_words(stdout), last_words(stderr))?;
        // It has ended by itself: its number may belong to another by now.
        std::mem::forget(group);
        Ok(Output { status, stdout, stderr })
    }
}

/// The end of what a program says: who serves a repository may have git say as much as he likes.
async fn last_words(said: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut words = Vec::new();
    let Some(mut said) = said else { return Ok(words) };
    while said.read_buf(&mut words).await? > 0 {
        if words.len() > 2 * WORDS_BYTES_MAX {
            words.drain(..words.len() - WORDS_BYTES_MAX);
        }
    }
    Ok(words)
}

/// git's process group: its transport is a child of its own. Ended when dropped.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // It fails if all of them have ended.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

/// A folder is fetched like any other repository, so that the depth counts there too.
fn address(repository: &Repository) -> String {
    let text = repository.as_str();
    if text.starts_with('/') { format!("file://{text}") } else { text.to_owned() }
}

fn explain(source: &Source, has_login: bool, stderr: &str) -> GitError {
    let repository = source.repository.clone();
    let says = |words: &[&str]| words.iter().any(|words| stderr.contains(words));
    if says(&["could not read Username", "Authentication failed", "terminal prompts disabled", "error: 403"])
    {
        return if has_login { GitError::LoginRefused(repository) } else { GitError::NeedsLogin(repository) };
    }
    if says(&["error: 301", "error: 302", "error: 303", "error: 307", "error: 308"]) {
        return GitError::Moved(repository);
    }
    if says(&["couldn't find remote ref", "not our ref", "no such remote ref"]) {
        return match (&source.commit, &source.branch) {
            (Some(commit), _) => GitError::NoCommit(repository, commit.clone()),
            (None, Some(branch)) => GitError::NoBranch(repository, branch.to_string()),
            (None, None) => GitError::Empty(repository),
        };
    }
    if says(&[
        "does not appear to be a git repository",
        "not found",
        "does not exist",
        "not valid: is this a git",
    ]) {
        return GitError::DoesNotExist(repository);
    }
    let reason = last_line(stderr);
    if says(&["Could not resolve host", "Failed to connect", "Couldn't connect", "Connection", "timed out"]) {
        let reason = reason.rsplit(": ").next().unwrap_or_default().to_owned();
        return GitError::Unreachable { repository, reason };
    }
    GitError::Other { repository, reason }
}

/// The last line that says why; the ones after it are advice.
fn last_line(text: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("fatal: ")).or_else(|| text.lines().last());
    line.unwrap_or_default().trim_start_matches("fatal: ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_many_words_the_last_are_kept() {
        let said = tokio::io::repeat(b'x').take(1 << 20).chain(&b"fatal: not found"[..]);
        let words = last_words(Some(said)).await.expect("read");
        assert!(
            words.len() <= 2 * WORDS_BYTES_MAX && words.ends_with(b"xfatal: not found"),
            "{}",
            words.len()
        );
    }
}
