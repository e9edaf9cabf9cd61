//! The first app: `examples/hello`, put into a git repository in the lab's folder and deployed from there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use wisehosting_lab::Lab;

use crate::{
    answers::Deployment,
    client::Client,
    deploy::{Follow, queue, verdict},
    error::CliError,
    output::Output,
};

/// Name of the app.
pub(crate) const NAME: &str = "hello";

const FILES: [(&str, &str); 4] = [
    ("Dockerfile", include_str!("../../../../examples/hello/Dockerfile")),
    ("VERSION", include_str!("../../../../examples/hello/VERSION")),
    ("index.html", include_str!("../../../../examples/hello/index.html")),
    ("start.sh", include_str!("../../../../examples/hello/start.sh")),
];

/// Deploys it, showing each step, and answers the deployment that is live.
pub(crate) async fn deploy(lab: &Lab, client: &Client, output: Output) -> Result<Deployment, CliError> {
    let repository = lab.state_dir().join("repositories").join(NAME);
    make_repository(&repository).map_err(|source| CliError::File { path: repository.clone(), source })?;
    lab.issue_certificate(&format!("{NAME}.localhost"))?;
    output.line("");
    output.line(&format!("  {NAME}, from the repository {}", repository.display()));
    let app =
        json!({ "name": NAME, "repository": repository, "limits": { "memory_bytes": 64 << 20, "pids": 64 } });
    client.post("/v1/apps", &app).await?;
    let queued: Deployment = client.read(queue(client, NAME, None).await?)?;
    let ended = Follow::new(client, output).until_settled(&queued.id).await?;
    output.value(&json!({ "event": "deployed", "deployment": ended }));
    let deployment = client.read(ended)?;
    verdict(&deployment, output)?;
    Ok(deployment)
}

fn make_repository(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    for (name, content) in FILES {
        fs::write(path.join(name), content)?;
    }
    git(path, &["init", "--quiet", "--initial-branch=main"])?;
    git(path, &["add", "--all"])?;
    git(path, &["commit", "--quiet", "--message=Say hello"])
}

/// Runs git as nobody in particular: the user's own settings (hooks, signatures) have no say.
fn git(repository: &Path, arguments: &[&str]) -> io::Result<()> {
    let nobody = PathBuf::from("/dev/null");
    let output = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(["-c", "user.name=WiseHosting", "-c", "user.email=lab@localhost"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", &nobody)
        .env("GIT_CONFIG_SYSTEM", &nobody)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("git {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim())))
}
