//! Next.js: build, then its own server.

use super::{Listing, PresetError, node, package::Package};
use wisehosting_domain::preset::Preset;

pub(super) fn render(listing: &Listing) -> Result<(String, String), PresetError> {
    let package = Package::read(listing, Preset::Next)?;
    if package.script("build").is_none() {
        return Err(PresetError::NoStart(Preset::Next, "a build script in package.json, such as next build"));
    }
    let stages = node::stages(&package, package.script("start").unwrap_or("next start"));
    Ok((package.because(), stages))
}
