//! Fetching private repositories, from a host that wants a login over TLS, and what becomes of the login.

use crate::{
    git_host::{GitHost, PASSWORD, USERNAME},
    support::{deploy_job, repository, settings, start_in_memory_trusting},
};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use wisehosting_containers::fake::FakeEngine;
use wisehosting_domain::{
    login::Login,
    source::{Commit, Source},
};
use wisehosting_worker::git::{Fetch, GitError};

fn login(password: &str) -> Login {
    Login { username: USERNAME.parse().expect("a name"), password: password.into() }
}

/// A bare repository with one file.
fn content() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let tree = dir.path().join("private");
    fs::create_dir(&tree).expect("a folder");
    fs::write(tree.join("file"), "private content").expect("written");
    fs::write(tree.join("Dockerfile"), "FROM scratch\nCMD [\"sh\", \"-c\", \"exit 3\"]\n").expect("written");
    let bare = repository(&tree);
    (dir, bare)
}

fn source(url: &str) -> Source {
    Source { repository: url.parse().expect("a repository"), branch: None, commit: None }
}

struct Fetched {
    result: Result<Commit, GitError>,
    dir: TempDir,
}

/// As a worker fetches that trusts this host.
fn fetch_from(host: &GitHost) -> Fetch {
    Fetch {
        allow_local: true,
        mesh_address: IpAddr::V4(Ipv4Addr::new(10, 50, 0, 11)),
        ca_file: Some(host.ca_file().to_owned()),
        login_dir: None,
        timeout: Duration::from_secs(60),
        group: None,
    }
}

async fn fetch(host: &GitHost, url: &str, login: Option<&Login>) -> Fetched {
    let dir = tempfile::tempdir().expect("a folder");
    let result = fetch_from(host).run(&source(url), login, dir.path()).await;
    Fetched { result, dir }
}

/// What this thread logs, at every level.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The files below a folder that hold this text, or have it in their names.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        let holds = |path: &Path| {
            let bytes = fs::read(path).expect("a file");
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        };
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if path.to_string_lossy().contains(text) || holds(&path) {
            found.push(path);
        }
    }
    found
}

/// The processes that have this text in their arguments or their environment.
fn processes_with(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let shown = processes.flat_map(|process| {
        ["cmdline", "environ"].map(|file| {
            // One that has ended meanwhile shows nothing.
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        })
    });
    shown.filter(|shown| shown.contains(text)).collect()
}

#[tokio::test]
async fn the_right_login_fetches_and_leaves_nothing_behind() {
    let (_content, bare) = content();
    let host = GitHost::start(&bare).await;
    let fetched = fetch(&host, &host.url(), Some(&login(PASSWORD))).await;
    fetched.result.expect("fetched");
    let text = fs::read_to_string(fetched.dir.path().join("source/file")).expect("the file");
    assert_eq!(text, "private content");
    assert_eq!(files_with(fetched.dir.path(), PASSWORD), Vec::<PathBuf>::new());
    assert!(host.logins().contains(&host.right_login()), "{:?}", host.logins());
}

#[tokio::test]
async fn a_login_that_is_missing_or_wrong_is_told_apart_and_nobody_is_asked() {
    let (_content, bare) = content();
    let host = GitHost::start(&bare).await;
    let error = fetch(&host, &host.url(), None).await.result.expect_err("no login");
    assert!(matches!(error, GitError::NeedsLogin(_)), "{error:?}");

    let wrong = "wrong-0123456789";
    let fetched = fetch(&host, &host.url(), Some(&login(wrong))).await;
    let error = fetched.result.expect_err("a wrong login");
    assert!(matches!(error, GitError::LoginRefused(_)), "{error:?}");
    assert!(!error.to_string().contains(wrong), "{error}");
    assert_eq!(files_with(fetched.dir.path(), wrong), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn while_git_fetches_the_login_is_in_one_private_file_and_in_no_process() {
    let (_content, bare) = content();
    let host = GitHost::start(&bare).await;
    let held = host.hold();
    let [dir, memory] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let fetch = Fetch { login_dir: Some(memory.path().to_owned()), ..fetch_from(&host) };
    let (source, login) = (source(&host.url()), login(PASSWORD));
    let looked = async {
        held.reached().await;
        // git and its transport wait for the host now, with the login in use.
        let git = processes_with(&host.url());
        assert!(git.len() > 1, "{git:?}");
        assert_eq!(processes_with(PASSWORD), [""; 0]);
        assert_eq!(files_with(dir.path(), PASSWORD), Vec::<PathBuf>::new());
        let files = files_with(memory.path(), PASSWORD);
        assert!(files.len() == 1 && files[0].ends_with(".git-credentials"), "{files:?}");
        held.release();
    };
    let (fetched, ()) = tokio::join!(fetch.run(&source, Some(&login), dir.path()), looked);
    fetched.expect("fetched");
    for dir in [dir, memory] {
        assert_eq!(files_with(dir.path(), PASSWORD), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_fetch_that_is_called_off_takes_its_login_along() {
    let (_content, bare) = content();
    let host = GitHost::start(&bare).await;
    let held = host.hold();
    let dir = tempfile::tempdir().expect("a folder");
    let fetch = fetch_from(&host);
    let (source, login) = (source(&host.url()), login(PASSWORD));
    tokio::select! {
        fetched = fetch.run(&source, Some(&login), dir.path()) => panic!("{fetched:?}"),
        () = held.reached() => {}
    }
    assert_eq!(files_with(dir.path(), PASSWORD), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_login_goes_to_no_other_host_and_not_in_the_clear() {
    let (_content, bare) = content();
    let other = GitHost::start(&bare).await;
    let host = GitHost::start(&bare).await;
    host.redirect_to(&other.url());
    let error = fetch(&host, &host.url(), Some(&login(PASSWORD))).await.result.expect_err("moved");
    assert!(matches!(error, GitError::Moved(_)), "{error:?}");
    assert_eq!(other.logins(), [""; 0], "nobody came, with or without a login");

    let dir = tempfile::tempdir().expect("a folder");
    let fetch = Fetch { allow_local: false, ..fetch_from(&host) };
    let clear = source("http://203.0.113.5/a.git");
    let error = fetch.run(&clear, Some(&login(PASSWORD)), dir.path()).await.expect_err("in the clear");
    assert!(matches!(error, GitError::LoginInClear(_)), "{error:?}");
}

/// What the worker writes and says of a deploy is all that anybody sees of it.
#[tokio::test]
async fn no_line_and_no_answer_of_a_deploy_has_the_login() {
    let (_content, bare) = content();
    let host = GitHost::start(&bare).await;
    let (logged, _guard) = Logged::start();
    let dir = tempfile::tempdir().expect("a folder");
    let mut worker = start_in_memory_trusting(host.ca_file(), FakeEngine::default(), dir.path()).await;
    for password in [PASSWORD, "wrong-0123456789"] {
        let mut job = deploy_job(1, Path::new(&host.url()));
        settings(&mut job).login = Some(login(password));
        worker.run(&job).await;
        assert!(!format!("{job:?}").contains(password));
        assert!(!format!("{:?}", worker.heard).contains(password));
        assert_eq!(files_with(dir.path(), password), Vec::<PathBuf>::new());
        assert!(!logged.text().contains(password), "{}", logged.text());
    }
    assert!(worker.build_log().iter().any(|line| line.starts_with("Building commit")), "{:?}", worker.heard);
    assert!(!logged.text().is_empty(), "what is logged is seen here");
}
