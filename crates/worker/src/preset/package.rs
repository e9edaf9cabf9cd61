//! `package.json`: what it depends on, what its scripts are, and how its lock file wants it installed.

use super::{Listing, PresetError};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write};
use wisehosting_domain::preset::Preset;

const FILE: &str = "package.json";
const DEFAULT_NODE: &str = "22";
/// Read by package managers before anything is installed.
const INSTALL_FILES: [&str; 6] =
    [".npmrc", ".yarnrc.yml", ".yarnrc", "pnpm-workspace.yaml", "pnpm-lock.yaml", "yarn.lock"];
/// Scripts that run during an installation, and may need any file.
const INSTALL_SCRIPTS: [&str; 4] = ["preinstall", "install", "postinstall", "prepare"];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Fields {
    main: Option<String>,
    package_manager: Option<String>,
    scripts: BTreeMap<String, String>,
    dependencies: BTreeMap<String, serde_json::Value>,
    dev_dependencies: BTreeMap<String, serde_json::Value>,
    workspaces: serde_json::Value,
}

/// Who installs, as the lock file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    NpmLocked(&'static str),
    Npm,
    Pnpm,
    Yarn,
}

/// A `package.json`.
pub(super) struct Package<'a> {
    listing: &'a Listing,
    fields: Fields,
    manager: Manager,
}

impl<'a> Package<'a> {
    pub(super) fn read(listing: &'a Listing, preset: Preset) -> Result<Self, PresetError> {
        let text = listing.text(FILE).ok_or(PresetError::Missing(preset, FILE))?;
        let fields: Fields =
            serde_json::from_str(text).map_err(|error| PresetError::Unreadable(FILE, error.to_string()))?;
        let manager = if listing.has("pnpm-lock.yaml") {
            Manager::Pnpm
        } else if listing.has("yarn.lock") {
            Manager::Yarn
        } else {
            let locks = listing.those_of(&["package-lock.json", "npm-shrinkwrap.json"]);
            locks.first().map_or(Manager::Npm, |lock| Manager::NpmLocked(lock))
        };
        Ok(Self { listing, fields, manager })
    }

    pub(super) fn depends_on(&self, name: &str) -> bool {
        self.fields.dependencies.contains_key(name) || self.fields.dev_dependencies.contains_key(name)
    }

    pub(super) fn script(&self, name: &str) -> Option<&str> {
        self.fields.scripts.get(name).map(String::as_str)
    }

    /// The file that it names as its own, if there is one.
    pub(super) fn main(&self) -> Option<&str> {
        let main = self.fields.main.as_deref()?;
        self.listing.has(main.trim_start_matches("./")).then_some(main)
    }

    /// For the build log: what it goes by.
    pub(super) fn because(&self) -> String {
        let lock = match self.manager {
            Manager::NpmLocked(lock) => lock,
            Manager::Npm => "no lock file",
            Manager::Pnpm => "pnpm-lock.yaml",
            Manager::Yarn => "yarn.lock",
        };
        format!("{FILE}, {lock}")
    }

    /// Node's image in this version; `slim` without build tools.
    pub(super) fn image(&self, slim: bool) -> String {
        let asked = self.listing.text(".nvmrc").unwrap_or_default().trim().trim_start_matches('v');
        let major = asked.split('.').next().filter(|major| major.parse::<u8>().is_ok());
        format!("docker.io/library/node:{}{}", major.unwrap_or(DEFAULT_NODE), if slim { "-slim" } else { "" })
    }

    /// The first stage: everything is installed and built in `/app`.
    pub(super) fn build_stage(&self) -> String {
        let mut stage = format!("FROM {} AS build\nWORKDIR /app\n", self.image(false));
        if self.fields.package_manager.is_some() {
            stage += "RUN corepack enable\n";
        } else if self.manager == Manager::Pnpm {
            stage += "RUN npm install --global pnpm\n";
        }
        if self.installs_alone() {
            let mut files = vec![FILE];
            files.extend(self.listing.those_of(&INSTALL_FILES));
            if let Manager::NpmLocked(lock) = self.manager {
                files.push(lock);
            }
            let _ = writeln!(stage, "COPY {} ./\nRUN {}\nCOPY . .", files.join(" "), self.install());
        } else {
            let _ = writeln!(stage, "COPY . .\nRUN {}", self.install());
        }
        if self.script("build").is_some() {
            let _ = writeln!(stage, "RUN {} run build", self.program());
        }
        stage
    }

    /// Removes what only the build needed.
    pub(super) fn prune(&self) -> &'static str {
        match self.manager {
            Manager::NpmLocked(_) | Manager::Npm => "RUN npm prune --omit=dev --no-audit --no-fund\n",
            Manager::Pnpm => "RUN CI=true pnpm prune --prod --ignore-scripts\n",
            // Yarn has no such command in all of its versions.
            Manager::Yarn => "",
        }
    }

    /// Whether an installation needs no file but those of the package manager.
    fn installs_alone(&self) -> bool {
        self.fields.workspaces.is_null()
            && !self.listing.has(".yarn")
            && INSTALL_SCRIPTS.iter().all(|script| self.script(script).is_none())
    }

    fn install(&self) -> &'static str {
        match self.manager {
            Manager::NpmLocked(_) => "npm ci --no-audit --no-fund",
            Manager::Npm => "npm install --no-audit --no-fund",
            Manager::Pnpm => "pnpm install --frozen-lockfile",
            Manager::Yarn if self.listing.has(".yarnrc.yml") => "yarn install --immutable",
            Manager::Yarn => "yarn install --frozen-lockfile",
        }
    }

    fn program(&self) -> &'static str {
        match self.manager {
            Manager::NpmLocked(_) | Manager::Npm => "npm",
            Manager::Pnpm => "pnpm",
            Manager::Yarn => "yarn",
        }
    }
}
