//! What a repository has, as far as presets look at it.
//!
//! Invariant: no link is followed and no large file read, so a repository cannot show a preset anything else of this
//! host.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Folders besides the root whose entries count.
const FOLDERS: [&str; 2] = ["cmd", "public"];
/// Files whose text counts.
const TEXTS: [&str; 7] = [
    "package.json",
    "requirements.txt",
    "pyproject.toml",
    "manage.py",
    "Procfile",
    ".nvmrc",
    ".python-version",
];
const TEXT_BYTES_MAX: u64 = 256 * 1024;

/// Paths relative to the root, with the texts of those files whose text counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing(BTreeMap<String, String>);

impl Listing {
    /// What a folder has.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut paths = BTreeMap::new();
        add(&mut paths, root, "")?;
        for folder in FOLDERS {
            let dir = root.join(folder);
            if fs::symlink_metadata(&dir).is_ok_and(|found| found.is_dir()) {
                add(&mut paths, &dir, &format!("{folder}/"))?;
            }
        }
        Ok(Self(paths))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// The names of the entries of a folder.
    pub(crate) fn entries(&self, folder: &str) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(move |path| path.strip_prefix(folder)?.strip_prefix('/'))
    }

    /// Those of these paths that there are.
    pub(crate) fn those_of(&self, paths: &[&'static str]) -> Vec<&'static str> {
        paths.iter().copied().filter(|path| self.has(path)).collect()
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }
}

fn add(paths: &mut BTreeMap<String, String>, dir: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Nothing that presets look for has another name.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        let is_text = TEXTS.contains(&path.as_str()) && entry.file_type()?.is_file();
        let text = if is_text { read(&entry.path())? } else { String::new() };
        paths.insert(path, text);
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(TEXT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
