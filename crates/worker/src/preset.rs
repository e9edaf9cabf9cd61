//! How to build a repository that has no Dockerfile: which preset suits it, and the Dockerfile that the preset writes.
//!
//! Both are pure functions of a [`Listing`]. Invariants of every preset: dependencies are installed in a layer of their
//! own, which is built again only when their lock file changes; what serves is not root and has no build tools; it
//! listens on `$PORT`. Cache mounts are not used: the engine shares them between all builds of a host, so that one app
//! could put something into the build of another.

mod go;
mod listing;
mod next;
mod node;
mod package;
mod python;
mod static_site;
mod vite;

pub(crate) use listing::Listing;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};
use wisehosting_domain::preset::Preset;

/// What a preset's Dockerfile is called. One of the repository's own of this name is replaced.
pub(crate) const DOCKERFILE: &str = ".wisehosting.Dockerfile";

const IGNORE_FILE: &str = ".dockerignore";
/// What is left out of the image of a repository that does not say so itself.
const IGNORED: &str = ".git\nnode_modules\n.venv\n__pycache__\n.env\n";

/// What a preset makes of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Which one.
    pub(crate) preset: Preset,
    /// What it goes by, for the build log.
    pub(crate) because: String,
    /// What to build by.
    pub(crate) dockerfile: String,
}

/// Why there is no recipe. Shown to the app's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PresetError {
    /// No preset suits the repository.
    #[error(
        "The repository has no Dockerfile at its root, and nothing there that shows how to build it: package.json \
         (Next.js, Vite, Node), go.mod (Go), requirements.txt or pyproject.toml (Python), index.html or \
         public/index.html (static site). Add one of them, then deploy again."
    )]
    Unknown,
    /// The app's preset does not suit it.
    #[error(
        "The app is to be built as {0}, but its repository has no {1} at its root. Add it, or choose another preset."
    )]
    Missing(Preset, &'static str),
    /// A file that the preset needs cannot be read.
    #[error("{0} is not readable: {1}. Correct it, then deploy again.")]
    Unreadable(&'static str, String),
    /// There is nothing that could be started.
    #[error(
        "The repository looks like {0}, but nothing says what to start: looked for {1}. Add one, or a Dockerfile."
    )]
    NoStart(Preset, &'static str),
}

/// The recipe for a repository: by the preset that its app names, else by the first that suits it.
pub(crate) fn recipe(listing: &Listing, chosen: Option<Preset>) -> Result<Recipe, PresetError> {
    let preset = match chosen {
        Some(preset) => preset,
        None => detect(listing)?,
    };
    let (because, dockerfile) = match preset {
        Preset::Next => next::render(listing)?,
        Preset::Vite => vite::render(listing)?,
        Preset::Node => node::render(listing)?,
        Preset::Go => go::render(listing)?,
        Preset::Python => python::render(listing)?,
        Preset::Static => static_site::render(listing)?,
    };
    Ok(Recipe { preset, because, dockerfile })
}

fn detect(listing: &Listing) -> Result<Preset, PresetError> {
    if listing.has("package.json") {
        let package = package::Package::read(listing, Preset::Node)?;
        return Ok(if package.depends_on("next") {
            Preset::Next
        } else if package.depends_on("vite")
            && package.script("build").is_some()
            && package.script("start").is_none()
        {
            Preset::Vite
        } else {
            Preset::Node
        });
    }
    let by_file = [
        ("go.mod", Preset::Go),
        ("requirements.txt", Preset::Python),
        ("pyproject.toml", Preset::Python),
        ("index.html", Preset::Static),
        ("public/index.html", Preset::Static),
    ];
    let found = by_file.into_iter().find(|(file, _)| listing.has(file));
    found.map(|(_, preset)| preset).ok_or(PresetError::Unknown)
}

/// Puts what a recipe needs into a repository's folder. A link in its place is not followed.
pub(crate) fn write(folder: &Path, recipe: &Recipe) -> io::Result<()> {
    let dockerfile = folder.join(DOCKERFILE);
    match fs::remove_file(&dockerfile) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(dockerfile)?.write_all(recipe.dockerfile.as_bytes())?;
    match File::create_new(folder.join(IGNORE_FILE)) {
        Ok(mut file) => file.write_all(IGNORED.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// A command in the form that is run without a shell; with one, in its place, if the words need it.
fn command(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " ./_-@:,+".contains(c);
    let words: Vec<&str> =
        if text.chars().all(plain) { text.split_whitespace().collect() } else { vec!["sh", "-c", text] };
    format!("CMD {}", serde_json::Value::from(words))
}

/// What a `Procfile` says of the process that serves.
fn procfile(listing: &Listing) -> Option<&str> {
    let lines = listing.text("Procfile")?.lines();
    lines.filter_map(|line| line.strip_prefix("web:")).map(str::trim).find(|command| !command.is_empty())
}

#[cfg(test)]
mod tests;
