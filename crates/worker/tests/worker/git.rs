//! Fetching from real repositories, and from hosts that do not give any.

use crate::support::{git, runs};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wisehosting_domain::source::{Commit, Source};
use wisehosting_worker::git::{Fetch, GitError};

const FETCH: Fetch = Fetch {
    allow_local: true,
    mesh_address: IpAddr::V4(Ipv4Addr::new(10, 50, 0, 11)),
    ca_file: None,
    login_dir: None,
    timeout: Duration::from_secs(30),
    group: None,
};

struct Repository {
    dir: TempDir,
    bare: PathBuf,
}

/// Two commits on `main`, a branch `other`, a tag `v1` on the first commit.
fn repository() -> Repository {
    let dir = tempfile::tempdir().expect("a folder");
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).expect("a folder");
    let commit = |text: &str| {
        fs::write(tree.join("file"), text).expect("written");
        git(&tree, &["add", "--all"]);
        git(&tree, &["commit", "--quiet", "--message", text]);
    };
    git(&tree, &["init", "--quiet", "--initial-branch=main"]);
    commit("first");
    git(&tree, &["tag", "v1"]);
    git(&tree, &["branch", "other"]);
    commit("second");
    let bare = dir.path().join("bare.git");
    git(&tree, &["clone", "--quiet", "--bare", "--", ".", bare.to_str().expect("text")]);
    Repository { dir, bare }
}

fn source(repository: &str) -> Source {
    Source { repository: repository.parse().expect("a repository"), branch: None, commit: None }
}

async fn fetch(source: &Source) -> (Result<Commit, GitError>, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    (FETCH.run(source, None, dir.path()).await, dir)
}

fn file(dir: &Path) -> String {
    fs::read_to_string(dir.join("source/file")).expect("the file")
}

#[tokio::test]
async fn a_branch_a_tag_or_a_commit_is_checked_out() {
    let repository = repository();
    let mut source = source(repository.bare.to_str().expect("text"));
    let (commit, dir) = fetch(&source).await;
    assert_eq!(file(dir.path()), "second");
    assert_eq!(commit.expect("fetched").as_str(), git(&repository.bare, &["rev-parse", "main"]));

    for reference in ["other", "v1"] {
        source.branch = Some(reference.parse().expect("a branch"));
        let (commit, dir) = fetch(&source).await;
        assert_eq!(file(dir.path()), "first", "{reference}");
        assert_eq!(commit.expect("fetched").as_str(), git(&repository.bare, &["rev-parse", "v1"]));
    }

    source.branch = Some("main".parse().expect("a branch"));
    source.commit = Some(git(&repository.bare, &["rev-parse", "v1"]).parse().expect("a commit"));
    let (_, dir) = fetch(&source).await;
    assert_eq!(file(dir.path()), "first");
    drop(repository.dir);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let repository = repository();
    let mut source = source(repository.bare.to_str().expect("text"));
    source.branch = Some("nowhere".parse().expect("a branch"));
    let error = fetch(&source).await.0.expect_err("no branch");
    assert!(matches!(&error, GitError::NoBranch(_, branch) if branch == "nowhere"), "{error:?}");

    source.branch = None;
    source.commit = Some("0123456789012345678901234567890123456789".parse().expect("a commit"));
    let error = fetch(&source).await.0.expect_err("no commit");
    assert!(matches!(error, GitError::NoCommit(..)), "{error:?}");

    let missing = self::source("/nowhere/at/all");
    let error = fetch(&missing).await.0.expect_err("no repository");
    assert!(matches!(error, GitError::DoesNotExist(_)), "{error:?}");

    let empty = repository.dir.path().join("empty.git");
    git(repository.dir.path(), &["init", "--quiet", "--bare", "empty.git"]);
    let error = fetch(&self::source(empty.to_str().expect("text"))).await.0.expect_err("empty");
    assert!(matches!(error, GitError::Empty(_)), "{error:?}");
}

#[tokio::test]
async fn folders_of_the_worker_are_only_fetched_where_that_is_allowed() {
    let repository = repository();
    let source = source(&format!("file://{}", repository.bare.display()));
    assert!(fetch(&source).await.0.is_ok());
    let dir = tempfile::tempdir().expect("a folder");
    let error =
        Fetch { allow_local: false, ..FETCH }.run(&source, None, dir.path()).await.expect_err("refused");
    assert!(matches!(error, GitError::LocalNotAllowed(_)), "{error:?}");
}

#[tokio::test]
async fn programs_of_the_worker_are_only_asked_where_that_is_allowed() {
    let source = source(&host(Some("404 Not Found")).await);
    let dir = tempfile::tempdir().expect("a folder");
    let error =
        Fetch { allow_local: false, ..FETCH }.run(&source, None, dir.path()).await.expect_err("refused");
    assert!(matches!(error, GitError::Inside(_)), "{error:?}");
}

/// A host that answers every request with this status, or not at all.
async fn host(status: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(status) = status else {
                silent.push(stream);
                continue;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/private.git")
}

#[tokio::test]
async fn a_host_that_gives_nothing_is_understood() {
    let error = fetch(&source(&host(Some("401 Unauthorized")).await)).await.0.expect_err("a password");
    assert!(matches!(error, GitError::NeedsLogin(_)), "{error:?}");
    let error = fetch(&source(&host(Some("403 Forbidden")).await)).await.0.expect_err("forbidden");
    assert!(matches!(error, GitError::NeedsLogin(_)), "{error:?}");
    let error = fetch(&source(&host(Some("404 Not Found")).await)).await.0.expect_err("nothing there");
    assert!(matches!(error, GitError::DoesNotExist(_)), "{error:?}");
    let moved = host(Some("301 Moved Permanently\r\nLocation: http://127.0.0.1:1/a.git")).await;
    let error = fetch(&source(&moved)).await.0.expect_err("moved");
    assert!(matches!(error, GitError::Moved(_)), "{error:?}");
    let error = fetch(&source("http://127.0.0.1:1/a.git")).await.0.expect_err("no host");
    assert!(matches!(error, GitError::Unreachable { .. }), "{error:?}");
    let error = fetch(&source("https://no-such-host.invalid/a.git")).await.0.expect_err("no host");
    assert!(matches!(error, GitError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_fetch_that_takes_too_long_is_ended_with_its_children() {
    let url = host(None).await;
    let dir = tempfile::tempdir().expect("a folder");
    let fetch = Fetch { timeout: Duration::from_millis(500), ..FETCH };
    let error = fetch.run(&source(&url), None, dir.path()).await.expect_err("too long");
    assert!(matches!(error, GitError::Timeout(..)), "{error:?}");
    let patience = Instant::now() + Duration::from_secs(60);
    while runs(&url) {
        assert!(Instant::now() < patience, "git still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
