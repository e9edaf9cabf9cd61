//! Vite: build, then serve the files that it wrote.

use super::{Listing, PresetError, package::Package, static_site};
use wisehosting_domain::preset::Preset;

pub(super) fn render(listing: &Listing) -> Result<(String, String), PresetError> {
    let package = Package::read(listing, Preset::Vite)?;
    if package.script("build").is_none() {
        return Err(PresetError::NoStart(Preset::Vite, "a build script in package.json, such as vite build"));
    }
    // A path without a file is the application's own affair.
    let server = static_site::server("--from=build /app/dist", "/index.html");
    Ok((package.because(), format!("{}\n{server}", package.build_stage())))
}
