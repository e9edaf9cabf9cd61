//! What [`Engine`] promises, asked of the real engine and of the one in memory alike.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, time::Duration};
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use wisehosting_containers::{
    Build, BuildBounds, BuildError, Container, ContainerId, ContainerSpec, ContainerState, Engine,
    EngineError, Image, ImageId, LogPosition, Network,
    fake::FakeEngine,
    testing::{ADDRESS, on_host, write_app},
};
use wisehosting_domain::limits::Limits;

const NETWORK: &str = "wisehosting-build";
const LABEL: &str = "wisehosting.instance";
const IMAGE_LABEL: &str = "wisehosting.app";
/// Says hello and serves until it is asked to end.
const SERVER: &str = "echo hello; echo world; trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.05; done";

#[test]
fn podman_keeps_the_contract() {
    on_host(|host| async move { suite(&host.podman(), host.dir()).await });
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a folder");
    suite(&FakeEngine::default(), dir.path()).await;
}

async fn suite(engine: &impl Engine, dir: &Path) {
    let network = Network { name: NETWORK.to_owned(), subnet: "10.89.0.0/16".to_owned() };
    engine.ensure_network(&network).await.expect("a new network");
    engine.ensure_network(&network).await.expect("the network that is there");

    a_failed_build_names_its_step(engine, dir).await;
    a_missing_dockerfile_is_named(engine, dir).await;
    let image = a_build_reports_its_steps_and_ports(engine, dir).await;
    a_container_lives_from_run_to_remove(engine, &image).await;
    an_address_is_given_once(engine, &image).await;
    an_exit_code_is_kept(engine, dir).await;
    every_change_is_told(engine, dir).await;
    an_image_in_use_stays(engine, &image).await;
}

fn build(dir: &Path) -> Build {
    Build {
        name: format!("contract-{}", std::process::id()),
        context: dir.to_owned(),
        dockerfile: "Dockerfile".into(),
        network: NETWORK.to_owned(),
        bounds: BuildBounds {
            memory_bytes: 256 * 1024 * 1024,
            cpu_millis: 2_000,
            processes_max: 100,
            at_a_time: 2,
        },
        tag: "localhost/contract:1".to_owned(),
        labels: BTreeMap::from([(IMAGE_LABEL.to_owned(), "x".to_owned())]),
    }
}

async fn built(engine: &impl Engine, dir: &Path) -> (Result<Image, BuildError>, Vec<String>) {
    let (log, mut received) = mpsc::channel(64);
    let collect = async {
        let mut lines = Vec::new();
        while let Some(line) = received.recv().await {
            lines.push(line);
        }
        lines
    };
    let build = build(dir);
    tokio::join!(engine.build(&build, log), collect)
}

fn spec(name: &str, image: &ImageId, port: u16) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        image: image.clone(),
        limits: Limits::default(),
        labels: BTreeMap::from([(LABEL.to_owned(), name.to_owned())]),
        env: BTreeMap::new(),
        network: NETWORK.to_owned(),
        read_only: false,
        published: SocketAddr::from((ADDRESS, port)),
        port: 8080,
    }
}

async fn exited(engine: &impl Engine, id: &ContainerId) -> i64 {
    loop {
        match engine.container(id).await.expect("the container").state {
            ContainerState::Exited { code, .. } => return code,
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The texts of a log from a position on, and the position after them.
async fn log_texts(
    engine: &impl Engine,
    id: &ContainerId,
    mut position: LogPosition,
    follow: bool,
) -> (Vec<String>, LogPosition) {
    let (batches, mut received) = mpsc::channel(64);
    engine.log(id, position.clone(), follow, batches).await.expect("the log");
    let mut texts = Vec::new();
    while let Some(batch) = received.recv().await {
        texts.extend(batch.lines.into_iter().map(|line| line.text));
        position = batch.position;
    }
    (texts, position)
}

async fn a_failed_build_names_its_step(engine: &impl Engine, dir: &Path) {
    write_app(&dir.join("failing"), "RUN exit 4", SERVER);
    let (result, log) = built(engine, &dir.join("failing")).await;
    match result {
        Err(BuildError::Step { step, cause }) => {
            assert_eq!((step.as_str(), cause.as_str()), ("RUN exit 4", "exit status 4"));
        }
        other => panic!("{other:?}"),
    }
    assert!(log.iter().any(|line| line.contains("RUN exit 4")), "{log:?}");
}

async fn a_missing_dockerfile_is_named(engine: &impl Engine, dir: &Path) {
    fs::create_dir_all(dir.join("empty")).expect("a folder");
    let (result, _) = built(engine, &dir.join("empty")).await;
    assert!(matches!(result, Err(BuildError::Dockerfile(path)) if path == Path::new("Dockerfile")));
}

async fn a_build_reports_its_steps_and_ports(engine: &impl Engine, dir: &Path) -> Image {
    write_app(&dir.join("server"), "EXPOSE 8080\nEXPOSE 9090", SERVER);
    let (result, log) = built(engine, &dir.join("server")).await;
    assert!(log.iter().any(|line| line.starts_with("STEP 1/") && line.ends_with("FROM scratch")), "{log:?}");
    let image = result.expect("an image");
    assert_eq!(image.exposed_ports, [8080, 9090]);
    image
}

async fn a_container_lives_from_run_to_remove(engine: &impl Engine, image: &Image) {
    let spec = spec("life", &image.id, 20_000);
    let id = engine.run(&spec).await.expect("a container");
    let found: Container = engine.container(&id).await.expect("the container");
    assert_eq!((found.state, found.published), (ContainerState::Running, Some(spec.published)));
    assert_eq!(found.image, image.id);
    assert_eq!(found.labels.get(LABEL).map(String::as_str), Some("life"));
    assert_eq!(engine.containers(LABEL).await.expect("a list").known(), [found]);
    assert!(engine.containers("another.label").await.expect("a list").known().is_empty());

    let ((followed, position), stopped) = tokio::join!(
        log_texts(engine, &id, LogPosition::default(), true),
        engine.stop(&id, Duration::from_secs(10))
    );
    stopped.expect("stopped");
    assert_eq!(followed, ["hello", "world"]);
    assert_eq!(log_texts(engine, &id, position.clone(), false).await.0, [""; 0]);

    assert_eq!(exited(engine, &id).await, 0);
    engine.stop(&id, Duration::ZERO).await.expect("stopped before");
    engine.start(&id).await.expect("started again");
    engine.start(&id).await.expect("running before");
    assert_eq!(engine.container(&id).await.expect("the container").state, ContainerState::Running);
    let ((followed, _), removed) =
        tokio::join!(log_texts(engine, &id, position, true), engine.stop(&id, Duration::from_secs(10)));
    removed.expect("stopped");
    assert_eq!(followed, ["hello", "world"], "what it wrote since it was started again");

    engine.remove(&id).await.expect("removed");
    engine.remove(&id).await.expect("removed before");
    let gone = [
        engine.container(&id).await.map(drop),
        engine.start(&id).await,
        engine.stop(&id, Duration::ZERO).await,
    ];
    for answer in gone {
        assert!(matches!(&answer, Err(EngineError::NoSuchContainer(gone)) if *gone == id), "{answer:?}");
    }
}

async fn an_address_is_given_once(engine: &impl Engine, image: &Image) {
    let first = engine.run(&spec("first", &image.id, 20_001)).await.expect("a container");
    let second = engine.run(&spec("second", &image.id, 20_001)).await;
    assert!(matches!(second, Err(EngineError::PortTaken(at)) if at.port() == 20_001), "{second:?}");
    let left: Vec<_> =
        engine.containers(LABEL).await.expect("a list").known().into_iter().map(|c| c.id).collect();
    assert_eq!(left, std::slice::from_ref(&first), "a container that did not start is gone");
    engine.remove(&first).await.expect("removed");
}

async fn an_exit_code_is_kept(engine: &impl Engine, dir: &Path) {
    write_app(&dir.join("crashing"), "", "echo boom; exit 3");
    let image = built(engine, &dir.join("crashing")).await.0.expect("an image");
    assert!(image.exposed_ports.is_empty());
    let id = engine.run(&spec("crash", &image.id, 20_002)).await.expect("a container");
    assert_eq!(exited(engine, &id).await, 3);
    assert_eq!(log_texts(engine, &id, LogPosition::default(), false).await.0, ["boom"]);
    engine.remove(&id).await.expect("removed");
    engine.remove_image(&image.id).await.expect("removed");
}

async fn every_change_is_told(engine: &impl Engine, dir: &Path) {
    write_app(&dir.join("short"), "", "exit 3");
    let image = built(engine, &dir.join("short")).await.0.expect("an image");
    let changed = Notify::new();
    let told = async || timeout(Duration::from_secs(1), changed.notified()).await;
    let changes = async {
        let run = async || engine.run(&spec("short", &image.id, 20_004)).await.expect("a container");
        let mut id = run().await;
        // It takes a moment until the engine's events are heard.
        while told().await.is_err() {
            engine.remove(&id).await.expect("removed");
            id = run().await;
        }
        exited(engine, &id).await;
        // What is left of its start and of its end.
        while told().await.is_ok() {}
        engine.remove(&id).await.expect("removed");
        told().await.expect("its removal is told");
        while told().await.is_ok() {}
    };
    tokio::select! {
        ended = engine.events(LABEL, &changed) => panic!("the events end: {ended:?}"),
        () = changes => {}
    }
    engine.remove_image(&image.id).await.expect("removed");
}

async fn an_image_in_use_stays(engine: &impl Engine, image: &Image) {
    let spec = spec("user", &image.id, 20_003);
    let id = engine.run(&spec).await.expect("a container");
    engine.remove_image(&image.id).await.expect("left as it is");
    engine.stop(&id, Duration::from_secs(10)).await.expect("stopped");
    engine.start(&id).await.expect("its image is there");
    engine.remove(&id).await.expect("removed");
    assert_eq!(engine.image(&image.id).await.expect("found"), Some(image.clone()));
    let stored = engine.images(IMAGE_LABEL).await.expect("a list");
    assert_eq!(stored.iter().map(|stored| &stored.id).collect::<Vec<_>>(), [&image.id]);
    assert_eq!(stored[0].labels[IMAGE_LABEL], "x");
    assert!(engine.images("another.label").await.expect("a list").is_empty());
    engine.remove_image(&image.id).await.expect("removed");
    engine.remove_image(&image.id).await.expect("removed before");
    assert_eq!(engine.image(&image.id).await.expect("looked for"), None);
    assert!(engine.images(IMAGE_LABEL).await.expect("a list").is_empty());
    let answer = engine.run(&spec).await;
    assert!(matches!(&answer, Err(EngineError::NoSuchImage(gone)) if *gone == image.id), "{answer:?}");
    assert!(engine.containers(LABEL).await.expect("a list").known().is_empty());
}
