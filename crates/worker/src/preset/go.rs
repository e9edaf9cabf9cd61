//! Go: one program without anything around it.

use super::{Listing, PresetError};
use crate::host::LABEL_READ_ONLY;
use wisehosting_domain::preset::Preset;

const FILE: &str = "go.mod";

pub(super) fn render(listing: &Listing) -> Result<(String, String), PresetError> {
    if !listing.has(FILE) {
        return Err(PresetError::Missing(Preset::Go, FILE));
    }
    let package =
        package(listing).ok_or(PresetError::NoStart(Preset::Go, "main.go, or one folder in cmd"))?;
    let files = listing.those_of(&[FILE, "go.sum"]).join(" ");
    let dockerfile = format!(
        "FROM docker.io/library/golang:1 AS build\nWORKDIR /src\nCOPY {files} ./\nRUN go mod download\nCOPY . .\n\
         RUN CGO_ENABLED=0 go build -trimpath -o /program {package}\n\n\
         FROM gcr.io/distroless/static-debian12:nonroot\nLABEL {LABEL_READ_ONLY}=true\nENV HOME=/tmp\n\
         WORKDIR /src\nCOPY --from=build /src /src\n\
         COPY --from=build /program /program\nUSER nonroot\nCMD [\"/program\"]\n"
    );
    Ok((format!("{FILE}, {package}"), dockerfile))
}

/// What to build: the root, or the only program in `cmd`.
fn package(listing: &Listing) -> Option<String> {
    if listing.has("main.go") {
        return Some(".".to_owned());
    }
    let plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let mut programs = listing.entries("cmd").filter(plain);
    let (first, second) = (programs.next(), programs.next());
    first.filter(|_| second.is_none()).map(|name| format!("./cmd/{name}"))
}
