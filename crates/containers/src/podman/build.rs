//! Building an image.
//!
//! Invariant: `RUN` steps stand in the given network and nowhere else. Podman's Docker-compatible endpoint ignores
//! Docker's own `networkmode` and builds in the host's network unless it is told a network in `nsoptions`, which the
//! client library does not know; so this, the 64-bit memory limits and the cgroup are added to the request's address.

use super::{Podman, build_cgroup::BuildCgroup, context, percent_encode};
use crate::{
    engine::{Build, BuildError, Engine, EngineError, Image, ImageId},
    log::LINE_BYTES_MAX,
};
use bollard::{Docker, models::BuildInfo, query_parameters::BuildImageOptionsBuilder};
use futures_util::StreamExt;
use std::{collections::HashMap, path::Path};
use tokio::sync::mpsc;

const CPU_PERIOD_US: u64 = 100_000;
/// A container that asks for nothing has 1024.
const CPU_SHARES: u64 = 128;
/// The end of a step of which a program was ended by SIGKILL. Only the kernel does that, when memory is used up; who calls
/// a build off hears nothing of it any more.
const KILLED: &str = "exit status 137";
/// What Podman prints if it was the step's first program.
const KILLED_LINE: &str = "container exited on killed";
/// What programs print for ENOSPC.
const NO_SPACE: &str = "no space left on device";

pub(super) async fn run(
    podman: &Podman,
    build: &Build,
    log: mpsc::Sender<String>,
) -> Result<Image, BuildError> {
    let dockerfile = context::resolve(&build.context, &build.dockerfile)?;
    context::check_ignore_file(&build.context)?;
    let labels: HashMap<&str, &str> = build.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let options = BuildImageOptionsBuilder::new()
        .dockerfile(&relative(&dockerfile))
        .t(&build.tag)
        .labels(&labels)
        .rm(true)
        .forcerm(true)
        .build();
    // Whatever ends this function early, a step that still runs ends with it.
    let mut cgroup = BuildCgroup::new(&podman.build_slice, &podman.builds, &build.name, build.bounds);
    let docker = with_podman_options(podman.docker()?, build, &cgroup);
    let body = bollard::body_try_stream(context::stream(build.context.clone()));
    let mut answers = docker.build_image(options, None, Some(body));
    let mut lines = Lines::new(log);
    let mut image = None;
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(|e| explained(failed(podman, e), build, &lines, &cgroup))?;
        image = image.or_else(|| image_id(&answer));
        if let Some(detail) = answer.error_detail {
            cgroup.ended();
            lines.finish().await;
            let error = step_error(&detail.message.unwrap_or_default());
            return Err(explained(error, build, &lines, &cgroup));
        }
        lines.push(answer.stream.as_deref().unwrap_or_default()).await;
    }
    cgroup.ended();
    lines.finish().await;
    match image {
        Some(image) => podman.image(&image).await?.ok_or_else(|| EngineError::NoSuchImage(image).into()),
        None => Err(BuildError::Failed("Podman ended the build without an image".to_owned())),
    }
}

/// Podman also takes a JSON list of paths of the host here; a path that begins with `./` is never one.
fn relative(dockerfile: &Path) -> String {
    format!("./{}", dockerfile.display())
}

fn with_podman_options(docker: Docker, build: &Build, cgroup: &BuildCgroup) -> Docker {
    let namespaces = serde_json::json!([{ "Name": "network", "Path": build.network }]).to_string();
    let memory = build.bounds.memory_bytes;
    let quota = u64::from(build.bounds.cpu_millis) * CPU_PERIOD_US / 1_000;
    let query = format!(
        "&nsoptions={}&memory={memory}&memswap={memory}&cpuperiod={CPU_PERIOD_US}&cpuquota={quota}\
         &cpushares={CPU_SHARES}&cgroupparent={}",
        percent_encode(&namespaces),
        percent_encode(&cgroup.path())
    );
    docker.with_request_modifier(move |mut request| {
        // An address that does not parse becomes one that Podman does not know: better no build than one outside its
        // network.
        *request.uri_mut() = format!("{}{query}", request.uri()).parse().unwrap_or_default();
        request
    })
}

/// The same error, knowing which limit of the build it comes from.
fn explained(error: BuildError, build: &Build, lines: &Lines, cgroup: &BuildCgroup) -> BuildError {
    match error {
        BuildError::Step { step, .. } if cgroup.is_full() => {
            BuildError::TooManyProcesses { step, limit: build.bounds.processes_max }
        }
        BuildError::Step { step, cause } if lines.killed || cause.ends_with(KILLED) => {
            BuildError::OutOfMemory { step, limit_bytes: build.bounds.memory_bytes }
        }
        BuildError::Step { step, cause } if lines.no_space || cause.contains(NO_SPACE) => {
            BuildError::NoSpace { step }
        }
        error => error,
    }
}

fn image_id(answer: &BuildInfo) -> Option<ImageId> {
    let id = answer.aux.as_ref()?.id.as_deref()?;
    Some(ImageId::new(id))
}

fn failed(podman: &Podman, error: bollard::errors::Error) -> BuildError {
    match error {
        bollard::errors::Error::DockerStreamError { error } => step_error(&error),
        bollard::errors::Error::DockerResponseServerError { message, .. } => step_error(&message),
        other => BuildError::Engine(podman.failure("build an image", other).into()),
    }
}

/// Podman says `building at STEP "RUN make": while running runtime: exit status 2`, or, of what comes after a step,
/// `committing container for step {Env:[] Command:run Args:[make] Original:RUN make}: copying layers: no space left on device`.
fn step_error(message: &str) -> BuildError {
    let message = without_server_paths(message.trim());
    if let Some((_, commit)) = message.split_once(" Original:")
        && let Some((step, cause)) = commit.split_once("}: ")
    {
        return BuildError::Step { step: step.to_owned(), cause: cause.to_owned() };
    }
    let Some(rest) = message.strip_prefix("building at STEP \"") else { return BuildError::Failed(message) };
    let named = rest.split_once("\": while running runtime: ").or_else(|| rest.split_once("\": "));
    match named {
        Some((step, cause)) => {
            let cause = cause.rsplit_once("copier: stat: \"").map_or(cause, |(_, cause)| cause);
            BuildError::Step { step: step.to_owned(), cause: cause.to_owned() }
        }
        None => BuildError::Failed(message),
    }
}

/// The engine unpacks the context in a folder of its own, whose name says nothing to the author of a Dockerfile.
fn without_server_paths(message: &str) -> String {
    let mut text = message.to_owned();
    while let Some(at) = text.find("/libpod_builder") {
        let from = text[..at].rfind(['"', ' ']).map_or(0, |quote| quote + 1);
        let inside = text[at..].find("/build").map_or(text.len(), |end| at + end + "/build".len());
        text.replace_range(from..inside, "");
    }
    text
}

/// Cuts the engine's pieces of output into lines.
struct Lines {
    log: Option<mpsc::Sender<String>>,
    rest: String,
    /// Whether the step's first program was ended by SIGKILL.
    killed: bool,
    /// Whether a line told of a full disk.
    no_space: bool,
}

impl Lines {
    fn new(log: mpsc::Sender<String>) -> Self {
        Self { log: Some(log), rest: String::new(), killed: false, no_space: false }
    }

    async fn push(&mut self, piece: &str) {
        for part in piece.split_inclusive('\n') {
            let text = part.trim_end_matches('\n');
            self.add(text).await;
            if text.len() < part.len() {
                let line = std::mem::take(&mut self.rest);
                self.send(line.trim_end_matches('\r').to_owned()).await;
            }
        }
    }

    /// A line that does not end is told in parts.
    async fn add(&mut self, mut text: &str) {
        while self.rest.len() + text.len() > LINE_BYTES_MAX {
            let (fits, more) = text.split_at(text.floor_char_boundary(LINE_BYTES_MAX - self.rest.len()));
            self.rest.push_str(fits);
            self.send_rest().await;
            text = more;
        }
        self.rest.push_str(text);
    }

    async fn finish(&mut self) {
        if !self.rest.is_empty() {
            self.send_rest().await;
        }
    }

    async fn send_rest(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.send(rest).await;
    }

    async fn send(&mut self, mut line: String) {
        // The engine's own words about an image; its registry is nobody's concern.
        if ["COMMIT localhost/", "Successfully tagged localhost/"].iter().any(|own| line.starts_with(own)) {
            line = line.replacen("localhost/", "", 1);
        }
        self.killed |= line == KILLED_LINE;
        self.no_space |= line.to_ascii_lowercase().contains(NO_SPACE);
        if let Some(log) = &self.log
            && log.send(line).await.is_err()
        {
            self.log = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_step_is_named() {
        let message = "building at STEP \"RUN echo \"a\": false\": while running runtime: exit status 1\n";
        let text = step_error(message).to_string();
        assert_eq!(text, "the build failed at RUN echo \"a\": false: exit status 1");
        let message = "building at STEP \"COPY nothere /\": checking on sources under \
                       \"/tmp/x/libpod_builder203/build\": copier: stat: \"/nothere: no such file or directory";
        let text = step_error(message).to_string();
        assert_eq!(text, "the build failed at COPY nothere /: /nothere: no such file or directory");
        let text = step_error("no contents in \"/var/tmp/libpod_builder241/build/Dockerfile\"").to_string();
        assert_eq!(text, "the build failed: no contents in \"/Dockerfile\"");
        let message = "committing container for step {Env:[PATH=/bin] Command:run Args:[make] Flags:[] Attrs:map[] \
                       Message:RUN make Original:RUN make}: copying layers: write /big: no space left on device";
        let text = step_error(message).to_string();
        assert_eq!(text, "the build failed at RUN make: copying layers: write /big: no space left on device");
        let text = step_error("parsing main Dockerfile: Unknown instruction: \"FRM\"").to_string();
        assert_eq!(text, "the build failed: parsing main Dockerfile: Unknown instruction: \"FRM\"");
    }

    #[tokio::test]
    async fn output_is_cut_into_lines_wherever_it_comes_apart() {
        let (log, mut received) = mpsc::channel(8);
        let mut lines = Lines::new(log);
        for piece in ["STEP 1", "/2: FROM scratch\r\nab", "c\n\nCOMMIT localhost/a:1\nrest localhost/a"] {
            lines.push(piece).await;
        }
        lines.finish().await;
        drop(lines);
        let mut all = Vec::new();
        while let Some(line) = received.recv().await {
            all.push(line);
        }
        assert_eq!(all, ["STEP 1/2: FROM scratch", "abc", "", "COMMIT a:1", "rest localhost/a"]);
    }

    #[tokio::test]
    async fn a_line_that_does_not_end_is_told_in_parts() {
        let (log, mut received) = mpsc::channel(8);
        let mut lines = Lines::new(log);
        let long = "é".repeat(LINE_BYTES_MAX);
        for piece in ["a", &long, "\nb\n"] {
            lines.push(piece).await;
        }
        drop(lines);
        let mut all = Vec::new();
        while let Some(line) = received.recv().await {
            assert!(line.len() <= LINE_BYTES_MAX);
            all.push(line);
        }
        assert_eq!(all.pop().as_deref(), Some("b"));
        assert_eq!((all.len(), all.concat()), (3, format!("a{long}")));
    }
}
