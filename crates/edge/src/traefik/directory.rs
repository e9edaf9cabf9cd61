//! The directory that Traefik's file provider watches.
//!
//! Invariants: a file of ours is replaced in one step, under a name that Traefik reads only once it is whole; a file of
//! somebody else is never changed. A route's file tells the route in its first line and is ours only if all of it is what
//! that route makes; so the directory is the only memory that routes have.

use super::HttpRoute;
use serde::Serialize;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The name of the file with the control plane's routes, without its ending; no route may have it.
pub(super) const PUSHED: &str = "wisehosting";
const ENDING: &str = ".yml";
/// Traefik reads it, as another user; the directory itself says who may see it.
const MODE: u32 = 0o644;
const FIRST_LINE: &str = "# wisehosting-edge: ";

/// A file under a route's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A route's.
    Route(Box<HttpRoute>),
    /// Somebody else's.
    Foreign,
}

/// The directory. Two changes of one file must not meet.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// This one, which must be there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The routes, by name.
    pub(super) fn routes(&self) -> io::Result<Vec<HttpRoute>> {
        let mut routes = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(ENDING)) else { continue };
            if let Found::Route(route) = self.find(name)? {
                routes.push(*route);
            }
        }
        routes.sort_by(|a, b| a.route_id.cmp(&b.route_id));
        Ok(routes)
    }

    /// What is under this name.
    pub(super) fn find(&self, name: &str) -> io::Result<Found> {
        let bytes = match read_file(&self.file(name)) {
            Ok(bytes) => bytes,
            Err(error) => return unreadable(error),
        };
        let first_line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let route = first_line.strip_prefix(FIRST_LINE.as_bytes());
        let route = route.and_then(|route| serde_json::from_slice::<HttpRoute>(route).ok());
        match route {
            Some(route) if route.route_id.as_str() == name && content(&route)? == bytes => {
                Ok(Found::Route(Box::new(route)))
            }
            _ => Ok(Found::Foreign),
        }
    }

    /// Takes a file out of Traefik's sight, and says what it is called now.
    pub(super) fn set_aside(&self, name: &str) -> io::Result<PathBuf> {
        let mut names = (1_u32..).map(|number| self.0.join(format!("{name}{ENDING}.set-aside-{number}")));
        let aside = names.find(|name| !name.exists()).ok_or(ErrorKind::AlreadyExists)?;
        fs::rename(self.file(name), &aside)?;
        self.sync()?;
        Ok(aside)
    }

    /// Puts a route's file in its place. Blocks until the disk has it.
    pub(super) fn put(&self, route: &HttpRoute) -> io::Result<()> {
        self.write(route.route_id.as_str(), &content(route)?)
    }

    /// The control plane's routes, as they were written last; empty if they never were.
    pub(super) fn pushed(&self) -> io::Result<String> {
        match fs::read_to_string(self.file(PUSHED)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            text => text,
        }
    }

    /// Puts the file with the control plane's routes in its place.
    pub(super) fn put_pushed(&self, document: &impl Serialize) -> io::Result<()> {
        self.write(PUSHED, &serde_json::to_vec(document)?)
    }

    /// Removes a file; one that is not there is no error.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.file(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync()),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.0.join(format!("{name}{ENDING}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.file(name))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}{ENDING}"))
    }
}

/// Only files: a pipe would keep its reader waiting.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.is_file() { fs::read(path) } else { Err(ErrorKind::IsADirectory.into()) }
}

/// What must be under a name that cannot be read. This program can read its own files, so one that it may not is somebody else's.
fn unreadable(error: io::Error) -> io::Result<Found> {
    match error.kind() {
        ErrorKind::NotFound => Ok(Found::Nothing),
        ErrorKind::PermissionDenied | ErrorKind::IsADirectory => Ok(Found::Foreign),
        _ => Err(error),
    }
}

/// JSON, which YAML reads too, after the line that tells the route.
fn content(route: &HttpRoute) -> io::Result<Vec<u8>> {
    let (line, document) = (serde_json::to_string(route)?, serde_json::to_string(&route.document())?);
    Ok(format!("{FIRST_LINE}{line}\n{document}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(id: &str) -> HttpRoute {
        HttpRoute {
            route_id: id.parse().unwrap(),
            hostname: "a.example.org".parse().unwrap(),
            target_url: "http://10.50.0.12:8080".parse().unwrap(),
            entrypoint: None,
            certresolver: Some("le".parse().unwrap()),
        }
    }

    #[test]
    fn routes_come_back_as_they_were_put_and_go() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        for id in ["b", "a.yml"] {
            directory.put(&route(id)).unwrap();
        }
        directory.put(&HttpRoute { certresolver: None, ..route("b") }).unwrap();
        let routes = [route("a.yml"), HttpRoute { certresolver: None, ..route("b") }];
        assert_eq!(directory.routes().unwrap(), routes);
        let mode = fs::metadata(temporary.path().join("b.yml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        directory.remove("b").unwrap();
        directory.remove("b").unwrap();
        assert_eq!(directory.find("b").unwrap(), Found::Nothing);
        assert_eq!(directory.routes().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_somebody_changed_is_not_ours() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        directory.put(&route("a")).unwrap();
        let text = fs::read_to_string(temporary.path().join("a.yml")).unwrap();
        fs::write(temporary.path().join("b.yml"), &text).unwrap();
        assert_eq!(directory.find("b").unwrap(), Found::Foreign, "it tells another name");
        fs::write(temporary.path().join("a.yml"), text.replace(":8080\"}]", ":8081\"}]")).unwrap();
        assert_eq!(directory.find("a").unwrap(), Found::Foreign);
        assert_eq!(directory.routes().unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_hides_no_route() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        directory.put(&route("a")).unwrap();
        fs::create_dir(temporary.path().join("b.yml")).unwrap();
        assert_eq!(directory.find("b").unwrap(), Found::Foreign);
        assert_eq!(directory.routes().unwrap(), [route("a")]);
        assert_eq!(unreadable(ErrorKind::PermissionDenied.into()).unwrap(), Found::Foreign);
        assert_eq!(unreadable(ErrorKind::NotFound.into()).unwrap(), Found::Nothing);
        unreadable(ErrorKind::StorageFull.into()).unwrap_err();
    }

    #[test]
    fn what_is_set_aside_is_kept_where_traefik_does_not_look() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        for number in 1..3 {
            directory.put(&route("a")).unwrap();
            let aside = directory.set_aside("a").unwrap();
            assert_eq!(aside, temporary.path().join(format!("a.yml.set-aside-{number}")));
            assert_eq!(fs::read(aside).unwrap(), content(&route("a")).unwrap());
            assert_eq!(directory.find("a").unwrap(), Found::Nothing);
        }
        assert_eq!(directory.routes().unwrap(), []);
    }
}
