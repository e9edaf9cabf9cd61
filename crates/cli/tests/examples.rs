//! The examples, deployed for real: by their Dockerfile, or by the preset that suits them.
//!
//! There is no registry here, so a Debian with the same programs stands in the place of each base image.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use support::{Up, cache, repository::Repository, visitor};

/// Base images without settings of their own.
const PLAIN: [(&str, &str); 6] = [
    ("docker.io/library/node", "22"),
    ("docker.io/library/node", "22-slim"),
    ("docker.io/library/golang", "1"),
    ("gcr.io/distroless/static-debian12", "nonroot"),
    ("docker.io/library/python", "3.13"),
    ("docker.io/library/python", "3.13-slim"),
];
const NGINX: &str = "docker.io/nginxinc/nginx-unprivileged:stable-alpine";
/// What is asked of each example, and what the answer must contain. None is served by root.
const EXAMPLES: [(&str, &str, &str); 6] = [
    ("node", "/", "Served by http-server"),
    ("next", "/", "Next.js as user 1000"),
    ("vite", "/a/path/of/the/application", "<h1>Vite</h1>"),
    ("go", "/", "Go as user 1001"),
    ("python", "/", "Python as user 1002"),
    ("static", "/", "<h1>Static</h1>"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_built_and_answers_through_the_proxy() {
    let archive = debian();
    let up = Up::start();
    let engine = Engine::of(&up);
    engine.import(&archive, PLAIN[0], &[]).await;
    for image in &PLAIN[1..] {
        engine.tag(PLAIN[0], *image).await;
    }
    let settings = ["USER nginx", r#"ENTRYPOINT ["sh","/usr/local/bin/nginx-start"]"#];
    engine.import(&archive, NGINX.rsplit_once(':').unwrap(), &settings).await;

    for (example, path, expected) in EXAMPLES {
        let repository = Repository::of_example(example);
        let deployment = up.run_json(&["deploy", repository.path(), "--name", example, "--memory", "256M"]);
        assert_eq!(deployment["state"], "live", "{example}");
        let url = format!("http://{example}.localhost:{}{path}", up.http_port());
        let response = visitor(example, up.http_port(), true).get(url).send().await.unwrap();
        assert_eq!(response.status(), 200, "{example}");
        let text = response.text().await.unwrap();
        assert!(text.contains(expected), "{example}: {text}");
        up.run_json(&["delete", example]);
    }
    up.stop();
}

/// A root file system, made once: about two minutes. What this machine trusts, the builds in it trust too.
fn debian() -> PathBuf {
    let archive = cache().join("debian-examples.tar");
    if archive.exists() {
        return archive;
    }
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    let upload =
        |file: &str, to: &str| format!("--customize-hook=upload {} {to}", images.join(file).display());
    let unfinished = cache().join("debian-examples.tar.new");
    let output = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase"])
        .arg("--include=ca-certificates,nodejs,npm,golang-go,python-is-python3,python3-venv,nginx-light,gettext-base")
        .arg("--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs")
        .arg(r#"--customize-hook=for user in node nonroot; do chroot "$1" useradd --create-home $user; done"#)
        .arg(r#"--customize-hook=chroot "$1" useradd --system nginx; chroot "$1" chown --recursive nginx /etc/nginx"#)
        .arg(upload("nginx.conf", "/etc/nginx/nginx.conf"))
        .arg(upload("nginx-start", "/usr/local/bin/nginx-start"))
        .args(["--format=tar", "bookworm"])
        .arg(&unfinished)
        .output()
        .expect("mmdebstrap is installed (./dev setup test does that)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(unfinished, &archive).unwrap();
    archive
}

/// The engine of the lab's worker.
struct Engine(reqwest::Client);

impl Engine {
    /// By the socket on the worker's private `/run`.
    fn of(up: &Up) -> Self {
        wisehosting_node::tls::install_provider();
        let running = fs::read(up.directory().join("running.json")).unwrap();
        let running: serde_json::Value = serde_json::from_slice(&running).unwrap();
        let socket = format!("/proc/{}/root/run/podman/podman.sock", running["hosts"]["worker-1"]);
        Self(reqwest::Client::builder().unix_socket(socket).build().unwrap())
    }

    /// Makes an image of a root file system.
    async fn import(&self, archive: &Path, (name, tag): (&str, &str), settings: &[&str]) {
        let trust = ["NODE_EXTRA_CA_CERTS", "PIP_CERT"]
            .map(|variable| format!("ENV {variable}=/etc/ssl/certs/ca-certificates.crt"));
        let reference = format!("{name}:{tag}");
        let mut query = vec![("reference", reference.as_str())];
        query.extend(trust.iter().map(|change| ("changes", change.as_str())));
        query.extend(settings.iter().map(|change| ("changes", *change)));
        let file = tokio::fs::File::open(archive).await.unwrap();
        self.post("/images/import", &query, reqwest::Body::from(file)).await;
    }

    /// Gives an image another name.
    async fn tag(&self, (name, tag): (&str, &str), (repo, new_tag): (&str, &str)) {
        let path = format!("/images/{name}:{tag}/tag");
        self.post(&path, &[("repo", repo), ("tag", new_tag)], reqwest::Body::default()).await;
    }

    async fn post(&self, path: &str, query: &[(&str, &str)], body: reqwest::Body) {
        let mut url = reqwest::Url::parse(&format!("http://podman/v4.0.0/libpod{path}")).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let response = self.0.post(url).body(body).send().await.unwrap();
        let status = response.status();
        assert!(status.is_success(), "{path}: {status}: {}", response.text().await.unwrap());
    }
}
