//! A static site: its files, behind a web server.

use super::{Listing, PresetError};
use crate::host::LABEL_READ_ONLY;
use wisehosting_domain::preset::Preset;

const IMAGE: &str = "docker.io/nginxinc/nginx-unprivileged:stable-alpine";

pub(super) fn render(listing: &Listing) -> Result<(String, String), PresetError> {
    let folders = [("index.html", "."), ("public/index.html", "public")];
    let found = folders.into_iter().find(|(page, _)| listing.has(page));
    let (page, folder) =
        found.ok_or(PresetError::Missing(Preset::Static, "index.html or public/index.html"))?;
    Ok((page.to_owned(), server(folder, "=404")))
}

/// The stage that serves what is copied `from` somewhere; `otherwise` is what a path without a file leads to. Its image
/// puts `$PORT` into the template when it starts, here in `/tmp`, where it writes all else as well, and is not root.
pub(super) fn server(from: &str, otherwise: &str) -> String {
    let site = format!(
        "server {{ listen ${{PORT}}; root /site; location / {{ try_files $uri $uri/ {otherwise}; }} }}"
    );
    format!(
        "FROM {IMAGE}\n\
         LABEL {LABEL_READ_ONLY}=true\n\
         ENV NGINX_ENVSUBST_OUTPUT_DIR=/tmp\n\
         RUN mkdir -p /etc/nginx/templates && echo '{site}' >/etc/nginx/templates/site.conf.template && \
         echo 'include /tmp/site.conf;' >/etc/nginx/conf.d/default.conf\n\
         COPY {from} /site\n"
    )
}
