//! Node: install, build if there is a build script, start.

use super::{Listing, PresetError, command, package::Package, procfile};
use wisehosting_domain::preset::Preset;

const LOOKED_FOR: &str =
    "a start script or a main file in package.json, a web line in Procfile, server.js, index.js, app.js";
const MAIN_FILES: [&str; 3] = ["server.js", "index.js", "app.js"];

pub(super) fn render(listing: &Listing) -> Result<(String, String), PresetError> {
    let package = Package::read(listing, Preset::Node)?;
    let start = start(listing, &package).ok_or(PresetError::NoStart(Preset::Node, LOOKED_FOR))?;
    Ok((package.because(), stages(&package, &start)))
}

/// The program itself is what signals go to, so package managers do not stand between.
fn start(listing: &Listing, package: &Package<'_>) -> Option<String> {
    let said = procfile(listing).or_else(|| package.script("start"));
    let main = || {
        Some(format!("node {}", package.main().or_else(|| listing.those_of(&MAIN_FILES).first().copied())?))
    };
    said.map(ToOwned::to_owned).or_else(main)
}

/// Builds, then runs `start` on what was built.
pub(super) fn stages(package: &Package<'_>, start: &str) -> String {
    format!(
        "{}{}\nFROM {}\nENV NODE_ENV=production PATH=/app/node_modules/.bin:$PATH\nWORKDIR /app\n\
         COPY --from=build --chown=node:node /app /app\nUSER node\n{}\n",
        package.build_stage(),
        package.prune(),
        package.image(true),
        command(start)
    )
}
