//! How git is given the login of a private repository.
//!
//! git asks its own helper `store`, which reads a file in git's home. Invariants: the file can be read by this user
//! alone, names the one origin that it is good for, and is there only while git fetches; no part of a login is in an
//! argument, an address, an environment or a text that git wrote.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use wisehosting_domain::{login::Login, source::Repository};
use zeroize::Zeroizing;

/// Where `git credential-store` looks, in git's home.
const FILE: &str = ".git-credentials";
/// What stands in the place of a password.
const HIDDEN: &str = "[hidden]";

/// A home of git's with a login in it, which is removed when this value is dropped.
pub(super) struct LoginHome(PathBuf);

impl LoginHome {
    /// Makes the home `path`, which must not exist.
    pub(super) fn create(path: PathBuf, repository: &Repository, login: &Login) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let home = Self(path);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(home.0.join(FILE))?;
        file.write_all(line(repository, login).as_bytes())?;
        Ok(home)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoginHome {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a login stays until its job's folder goes");
        }
    }
}

/// The address with the login in it, as the helper reads it. git compares scheme, host and port, and takes no other.
fn line(repository: &Repository, login: &Login) -> Zeroizing<String> {
    let address = repository.origin().unwrap_or_default();
    let (scheme, host) = address.split_once("://").unwrap_or_default();
    let (username, password) = (encoded(login.username.as_str()), encoded(login.password.expose()));
    Zeroizing::new(format!("{scheme}://{}:{}@{host}\n", *username, *password))
}

/// Percent-encoded, but for letters and digits.
fn encoded(text: &str) -> Zeroizing<String> {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    Zeroizing::new(text.bytes().map(encode).collect())
}

/// What git wrote, without the password. git does not write it; should it do so once, nobody is to read it.
pub(super) fn scrub(text: &str, login: Option<&Login>) -> String {
    let Some(login) = login else { return text.to_owned() };
    let password = login.password.expose();
    text.replace(password, HIDDEN).replace(encoded(password).as_str(), HIDDEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn login() -> Login {
        Login { username: "me".parse().expect("a name"), password: "a:b/c@d%".into() }
    }

    #[test]
    fn a_home_names_one_origin_and_is_ours_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("login");
        let repository = "https://git.example.org:8443/a.git".parse().expect("a repository");
        let home = LoginHome::create(path.clone(), &repository, &login()).expect("made");
        let file = home.path().join(FILE);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&file)), (0o700, 0o600));
        let text = fs::read_to_string(file).expect("read");
        assert_eq!(text, "https://me:a%3Ab%2Fc%40d%25@git.example.org:8443\n");
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn a_password_is_taken_out_of_what_git_wrote() {
        let said = "fatal: 'https://me:a%3Ab%2Fc%40d%25@h/' and a:b/c@d%";
        assert_eq!(scrub(said, Some(&login())), "fatal: 'https://me:[hidden]@h/' and [hidden]");
        assert_eq!(scrub(said, None), said);
    }
}
