//! The base image that the first deploy needs, made from the machine's own static busybox.
//!
//! The lab so needs no image registry: the image stands in the worker's store under the name that Dockerfiles use.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// Name under which the image is put into the worker's store.
pub const IMAGE: &str = "docker.io/library/busybox:1";

/// A static busybox of the machine: `WISEHOSTING_LAB_BUSYBOX`, or where Debian's busybox-static puts it.
pub fn find() -> Option<PathBuf> {
    std::env::var_os("WISEHOSTING_LAB_BUSYBOX")
        .map(PathBuf::from)
        .into_iter()
        .chain(["/bin/busybox".into(), "/usr/bin/busybox".into()])
        .find(|path| path.is_file())
}

/// A root file system as a tar archive: busybox, a link for each of its programs, and the usual directories.
pub fn root_file_system(busybox: &Path) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (directory, mode) in
        [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755)]
    {
        let mut header = header(tar::EntryType::Directory, mode);
        archive.append_data(&mut header, format!("{directory}/"), io::empty())?;
    }
    let program = std::fs::read(busybox)?;
    append_file(&mut archive, "bin/busybox", 0o755, &program)?;
    append_file(
        &mut archive,
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    append_file(&mut archive, "etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    for applet in applets(busybox)?.lines().filter(|name| *name != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    archive.into_inner()
}

fn applets(busybox: &Path) -> io::Result<String> {
    let output = Command::new(busybox).arg("--list").output()?;
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

fn append_file(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}
