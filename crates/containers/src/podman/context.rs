//! The build context as a tar stream, made while it is sent.
//!
//! Invariant: symbolic links are sent as links, never followed, and the Dockerfile is a file inside the context, so a
//! repository cannot make the engine read anything else of this host.

use crate::engine::BuildError;
use bytes::Bytes;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_IN_FLIGHT: usize = 4;

/// The Dockerfile's real place in the context, all links on the way resolved.
pub(super) fn resolve(context: &Path, file: &Path) -> Result<PathBuf, BuildError> {
    let missing = || BuildError::Dockerfile(file.to_owned());
    let root = context.canonicalize().map_err(BuildError::Context)?;
    let real = root.join(file).canonicalize().map_err(|_| missing())?;
    let inside = real.strip_prefix(&root).map_err(|_| missing())?;
    if real.is_file() { Ok(inside.to_owned()) } else { Err(missing()) }
}

/// Refuses an ignore file that points elsewhere: the engine would read it on this host.
pub(super) fn check_ignore_file(context: &Path) -> Result<(), BuildError> {
    let name = Path::new(".dockerignore");
    if context.join(name).is_symlink() { resolve(context, name).map(drop) } else { Ok(()) }
}

/// Sends the folder's content. The reader sees an error at the end if a file could not be read.
pub(super) fn stream(context: PathBuf) -> ReceiverStream<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    tokio::task::spawn_blocking(move || {
        let mut writer = io::BufWriter::with_capacity(CHUNK_BYTES, ChannelWriter(sender.clone()));
        if let Err(error) = write_tar(&context, &mut writer) {
            // A receiver that is gone has its own error to tell.
            let _ = sender.blocking_send(Err(error));
        }
    });
    ReceiverStream::new(receiver)
}

fn write_tar(context: &Path, writer: &mut impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(&mut *writer);
    tar.follow_symlinks(false);
    // The engine does not understand how holes are told.
    tar.sparse(false);
    tar.append_dir_all(".", context)?;
    tar.finish()?;
    drop(tar);
    writer.flush()
}

struct ChannelWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(data);
        self.0.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_dockerfile_is_found_inside_the_context_only() {
        let dir = tempfile::tempdir().expect("folder");
        fs::create_dir(dir.path().join("docker")).expect("folder");
        fs::write(dir.path().join("docker/web"), "FROM scratch").expect("file");
        symlink("docker/web", dir.path().join("Dockerfile")).expect("link");
        symlink("/etc/shadow", dir.path().join("stolen")).expect("link");
        let found = resolve(dir.path(), Path::new("Dockerfile")).expect("resolved");
        assert_eq!(found, Path::new("docker/web"));
        for bad in ["stolen", "missing", "docker", "../etc/passwd", "/etc/passwd"] {
            let error = resolve(dir.path(), Path::new(bad)).expect_err(bad);
            assert!(matches!(error, BuildError::Dockerfile(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn links_are_sent_as_links() {
        let dir = tempfile::tempdir().expect("folder");
        symlink("/etc/shadow", dir.path().join("link")).expect("link");
        let mut bytes = Vec::new();
        write_tar(dir.path(), &mut bytes).expect("tar");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().expect("entries").map(|entry| entry.expect("entry"));
        let kinds: Vec<_> = entries.map(|entry| entry.header().entry_type()).collect();
        assert!(kinds.contains(&tar::EntryType::Symlink) && !kinds.contains(&tar::EntryType::Regular));
    }
}
