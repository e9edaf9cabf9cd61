//! What only the real engine can show: isolation, limits, and what is left when something is cut off.

mod builds;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use wisehosting_containers::{
    Build, BuildBounds, BuildError, ContainerId, ContainerSpec, ContainerState, Engine, EngineError, ImageId,
    LogPosition, Network, Podman,
    testing::{ADDRESS, Disk, Host, on_host, on_host_with_disk, write_app},
};
use wisehosting_domain::limits::Limits;

const NETWORK: &str = "wisehosting-build";
const SERVER: &str = "exec /bin/busybox httpd -f -p 8080 -h /";
const MIB: u64 = 1024 * 1024;

async fn with_network(podman: &Podman) {
    let network = Network { name: NETWORK.to_owned(), subnet: "10.89.0.0/16".to_owned() };
    podman.ensure_network(&network).await.expect("the network");
}

async fn build(podman: &Podman, context: &Path, log: mpsc::Sender<String>) -> Result<ImageId, BuildError> {
    build_as(podman, context, "localhost/test:1", log).await
}

async fn build_as(
    podman: &Podman,
    context: &Path,
    tag: &str,
    log: mpsc::Sender<String>,
) -> Result<ImageId, BuildError> {
    let build = Build {
        name: context.parent().and_then(Path::file_name).expect("a host's folder").display().to_string(),
        context: context.to_owned(),
        dockerfile: "Dockerfile".into(),
        network: NETWORK.to_owned(),
        bounds: BuildBounds {
            memory_bytes: 3 * 1024 * MIB,
            cpu_millis: 2_000,
            processes_max: 50,
            at_a_time: 2,
        },
        tag: tag.to_owned(),
        labels: BTreeMap::new(),
    };
    podman.build(&build, log).await.map(|image| image.id)
}

/// A log that nobody reads.
fn nobody() -> mpsc::Sender<String> {
    let (log, _) = mpsc::channel(1);
    log
}

async fn build_log(podman: &Podman, context: &Path) -> Vec<String> {
    let (log, mut received) = mpsc::channel(1_000);
    build(podman, context, log).await.expect("an image");
    let mut lines = Vec::new();
    while let Some(line) = received.recv().await {
        lines.push(line);
    }
    lines
}

async fn image(podman: &Podman, dir: &Path, extra: &str, script: &str) -> ImageId {
    write_app(dir, extra, script);
    build(podman, dir, nobody()).await.expect("an image")
}

fn spec(image: &ImageId) -> ContainerSpec {
    ContainerSpec {
        name: "one".to_owned(),
        image: image.clone(),
        limits: Limits::new(64 * MIB, 500, 32).expect("limits"),
        labels: BTreeMap::new(),
        env: BTreeMap::from([("PORT".to_owned(), "8080".into())]),
        network: NETWORK.to_owned(),
        read_only: false,
        published: SocketAddr::from((ADDRESS, 20_000)),
        port: 8080,
    }
}

async fn output(podman: &Podman, image: &ImageId) -> String {
    output_of(podman, &spec(image)).await
}

async fn output_of(podman: &Podman, spec: &ContainerSpec) -> String {
    let id = podman.run(spec).await.expect("a container");
    let (batches, mut received) = mpsc::channel(1_000);
    podman.log(&id, LogPosition::default(), true, batches).await.expect("its log");
    podman.remove(&id).await.expect("removed");
    let mut output = String::new();
    while let Some(batch) = received.recv().await {
        for line in batch.lines {
            output.push_str(&line.text);
            output.push('\n');
        }
    }
    output
}

/// What a container that goes on says up to a line.
async fn said_until(podman: &Podman, id: &ContainerId, last: &str) -> String {
    let (batches, mut received) = mpsc::channel(16);
    let follow = podman.log(id, LogPosition::default(), true, batches);
    let read = async {
        let mut said = String::new();
        loop {
            for line in received.recv().await.expect("lines").lines {
                if line.text == last {
                    return said;
                }
                said.push_str(&line.text);
                said.push('\n');
            }
        }
    };
    tokio::select! {
        result = follow => panic!("it ended: {result:?}"),
        said = read => said,
    }
}

async fn answers(address: SocketAddr) -> bool {
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_ok() {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

#[test]
fn a_build_stands_in_its_own_network_and_sends_what_is_not_ignored() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        write_app(
            &context,
            "RUN /bin/busybox ip addr || true\nCOPY . /all\nRUN /bin/busybox ls -a /all",
            SERVER,
        );
        fs::write(context.join(".dockerignore"), "secret.txt\n").expect("written");
        fs::write(context.join("secret.txt"), "hidden").expect("written");
        fs::write(context.join("public.txt"), "shown").expect("written");
        let holes = fs::File::create(context.join("holes")).expect("a file");
        holes.set_len(MIB).expect("its size");
        let log = build_log(&podman, &context).await.join("\n");
        assert!(log.contains("10.89."), "{log}");
        assert!(!log.contains(&ADDRESS.to_string()), "the build sees the host's addresses: {log}");
        assert!(log.contains("public.txt") && !log.contains("secret.txt"), "{log}");
    });
}

#[test]
fn a_container_is_bounded_and_has_few_rights() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let script = "/bin/busybox grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/self/status; \
                      /bin/busybox cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
                      /sys/fs/cgroup/memory.max 2>/dev/null; \
                      /bin/busybox cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; \
                      /bin/busybox cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; \
                      echo PORT=$PORT";
        let image = image(&podman, &host.dir().join("context"), "", script).await;
        let output = output(&podman, &image).await;
        // CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID are the bits 0, 1, 3, 6 and 7.
        let rights = ["CapBnd:\t00000000000000cb", "NoNewPrivs:\t1"];
        for expected in rights.into_iter().chain(["67108864", "\n32\n", "\n50000", "PORT=8080"]) {
            assert!(output.contains(expected), "{expected} is not in {output}");
        }
    });
}

#[test]
fn a_container_runs_the_image_it_was_given_whatever_its_name_means_by_now() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        let old = image(&podman, &context, "", "echo old").await;
        let new = image(&podman, &context, "", "echo new").await;
        assert_ne!(old, new);
        assert_eq!(output(&podman, &old).await, "old\n");
        assert_eq!(output(&podman, &new).await, "new\n");
    });
}

#[test]
fn the_log_of_a_container_that_lives_for_a_moment_is_whole() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let image = image(&podman, &host.dir().join("context"), "", "echo first; echo last").await;
        for _ in 0..10 {
            assert_eq!(output(&podman, &image).await, "first\nlast\n");
        }
    });
}

#[test]
fn a_read_only_container_writes_to_its_temporary_folder_only() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let script = "echo a >/tmp/a && echo temporary; echo b >/b || echo refused";
        let image = image(&podman, &host.dir().join("context"), "RUN /bin/busybox mkdir /tmp", script).await;
        let mut spec = spec(&image);
        spec.read_only = true;
        let output = output_of(&podman, &spec).await;
        assert!(output.contains("temporary") && output.contains("refused"), "{output}");
    });
}

#[test]
fn a_container_is_reachable_at_its_one_address_only() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let image = image(&podman, &host.dir().join("context"), "", SERVER).await;
        let spec = spec(&image);
        podman.run(&spec).await.expect("a container");
        assert!(answers(spec.published).await);
        let elsewhere = SocketAddr::from(([127, 0, 0, 1], spec.published.port()));
        TcpStream::connect(elsewhere).await.expect_err("published on the loopback too");
    });
}

/// Says its own address, then serves.
const SERVER_WITH_ADDRESS: &str = "/bin/busybox hostname -i; exec /bin/busybox httpd -f -p 8080 -h /";
const VISITOR: &str = "/bin/busybox nc -w 3 $HOST $AT </dev/null && echo reached || echo cut off";

#[test]
fn containers_of_another_network_are_out_of_reach() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let other = Network { name: "wisehosting-apps".to_owned(), subnet: "10.90.0.0/16".to_owned() };
        podman.ensure_network(&other).await.expect("another network");
        let image_of = async |name, script| image(&podman, &host.dir().join(name), "", script).await;
        let mut server = spec(&image_of("server", SERVER_WITH_ADDRESS).await);
        server.name = "server".to_owned();
        let id = podman.run(&server).await.expect("a container");
        assert!(answers(server.published).await);
        let (batches, mut received) = mpsc::channel(10);
        podman.log(&id, LogPosition::default(), false, batches).await.expect("its log");
        let said = received.recv().await.expect("its address").lines.remove(0);
        let inside = said.text.trim().parse().expect("an address");
        let inside = SocketAddr::new(inside, server.port);

        let mut visitor = spec(&image_of("visitor", VISITOR).await);
        visitor.published.set_port(20_001);
        for (network, target, expected) in [
            (NETWORK, inside, "reached"),
            (&other.name, inside, "cut off"),
            (&other.name, server.published, "cut off"),
        ] {
            visitor.network = network.to_owned();
            visitor.env.insert("HOST".to_owned(), target.ip().to_string().into());
            visitor.env.insert("AT".to_owned(), target.port().to_string().into());
            let said = output_of(&podman, &visitor).await;
            assert!(said.lines().any(|line| line == expected), "from {network} to {target}: {said}");
        }
    });
}

#[test]
fn containers_are_reachable_while_others_come_and_go() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let image = image(&podman, &host.dir().join("context"), "", SERVER).await;
        let mut running = Vec::new();
        for number in 0..8 {
            let mut spec = spec(&image);
            spec.name = format!("number-{number}");
            spec.published.set_port(20_000 + number);
            running.push((podman.run(&spec).await.expect("a container"), spec.published));
            for (_, address) in &running {
                assert!(answers(*address).await);
            }
        }
        while let Some((id, _)) = running.pop() {
            podman.remove(&id).await.expect("removed");
            for (_, address) in &running {
                let connected = timeout(Duration::from_secs(3), TcpStream::connect(address)).await;
                connected.expect("it cannot be reached").expect("it refuses");
            }
        }
    });
}

#[test]
fn a_program_that_is_not_there_is_named_and_nothing_is_left() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        write_app(&context, "LABEL x=y", SERVER);
        let dockerfile = "FROM scratch\nCOPY busybox /x\nCMD [\"/missing\"]\n";
        fs::write(context.join("Dockerfile"), dockerfile).expect("written");
        let image = build(&podman, &context, nobody()).await.expect("an image");
        let mut spec = spec(&image);
        spec.labels.insert("wisehosting.instance".to_owned(), "x".to_owned());
        match podman.run(&spec).await {
            Err(EngineError::Program(cause)) => assert!(cause.contains("/missing"), "{cause}"),
            other => panic!("{other:?}"),
        }
        assert!(podman.containers("wisehosting.instance").await.expect("a list").known().is_empty());
    });
}

#[test]
fn a_container_that_nobody_waits_for_any_more_is_removed() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let image = image(&podman, &host.dir().join("context"), "", SERVER).await;
        let spec = spec(&image);
        timeout(Duration::from_millis(20), podman.run(&spec)).await.expect_err("it takes longer");
        // It has its name for as long as it is there.
        let again = async {
            loop {
                match podman.run(&spec).await {
                    Ok(_) => return,
                    Err(error) => assert!(matches!(error, EngineError::Refused { .. }), "{error:?}"),
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(60), again).await.expect("one is left behind");
    });
}

#[test]
fn an_engine_that_is_away_is_named_with_what_to_do() {
    on_host(|mut host| async move {
        let podman = host.podman();
        podman.ping().await.expect("there");
        host.cut_power();
        let error = podman.ping().await.expect_err("away");
        assert!(matches!(error, EngineError::Away { .. }), "{error:?}");
        assert!(error.to_string().ends_with("start it with systemctl start podman.socket"), "{error}");
        let missing = ContainerId::new("x");
        let error = Podman::new("/nowhere/podman.sock").container(&missing).await.expect_err("away");
        assert!(matches!(error, EngineError::Away { .. }), "{error:?}");
    });
}

#[test]
fn a_container_starts_again_after_a_power_cut() {
    on_host(|mut host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let image = image(&podman, &host.dir().join("context"), "", SERVER).await;
        let spec = spec(&image);
        let id = podman.run(&spec).await.expect("a container");
        assert!(answers(spec.published).await);
        host.cut_power();
        host.restart();
        let state = podman.container(&id).await.expect("the container").state;
        assert_ne!(state, ContainerState::Running);
        podman.start(&id).await.expect("started again");
        assert!(answers(spec.published).await);
    });
}

#[test]
fn what_a_container_has_written_is_counted() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let script =
            "/bin/busybox dd if=/dev/zero of=/written bs=1M count=3; echo done; exec /bin/busybox sleep 1000";
        let image = image(&podman, &host.dir().join("app"), "", script).await;
        let labels = BTreeMap::from([("test.counted".to_owned(), "yes".to_owned())]);
        let id = podman.run(&ContainerSpec { labels, ..spec(&image) }).await.expect("a container");
        said_until(&podman, &id, "done").await;
        let written = podman.written_bytes("test.counted").await.expect("counted");
        assert_eq!(written.keys().collect::<Vec<_>>(), [&id]);
        assert!((3 * MIB..4 * MIB).contains(&written[&id]), "{written:?}");
        assert!(podman.written_bytes("test.other").await.expect("counted").is_empty());
        assert!(podman.storage().await.expect("a folder").dir.starts_with(host.dir()));
    });
}

/// Counts what a container has written that has volumes.
async fn count_with_volumes(host: Host) {
    let podman = host.podman();
    with_network(&podman).await;
    let script = "for dir in / /data /more; do /bin/busybox dd if=/dev/zero of=$dir/written bs=1M count=2; done; \
                  echo done; exec /bin/busybox sleep 1000";
    let lines = "VOLUME /data\nVOLUME [\"/more\"]";
    let image = image(&podman, &host.dir().join("app"), lines, script).await;
    let labels = BTreeMap::from([("test.counted".to_owned(), "yes".to_owned())]);
    let id = podman.run(&ContainerSpec { labels, ..spec(&image) }).await.expect("a container");
    said_until(&podman, &id, "done").await;
    let written = podman.written_bytes("test.counted").await.expect("counted");
    assert!((6 * MIB..7 * MIB).contains(&written[&id]), "{written:?}");
}

#[test]
fn what_a_container_has_written_to_its_volumes_is_counted() {
    on_host(count_with_volumes);
    on_host_with_disk(Disk { bytes: 128 * MIB, file_system: "ext4" }, count_with_volumes);
}

#[test]
fn a_file_system_that_holds_disk_limits_keeps_a_container_from_writing_more() {
    let disk = Disk { bytes: 256 * MIB, file_system: "btrfs" };
    on_host_with_disk(disk, |host| async move {
        let podman = host.podman();
        assert!(podman.storage().await.expect("described").holds_disk_limits);
        with_network(&podman).await;
        let script = "/bin/busybox dd if=/dev/zero of=/written bs=64k count=640 2>&1 | /bin/busybox head -n 2; echo done; \
                      exec /bin/busybox sleep 1000";
        let image = image(&podman, &host.dir().join("app"), "", script).await;
        let labels = BTreeMap::from([("test.counted".to_owned(), "yes".to_owned())]);
        let mut limited = ContainerSpec { labels, ..spec(&image) };
        limited.limits = limited.limits.with_disk(Some(20 * MIB)).expect("limits");
        let id = podman.run(&limited).await.expect("a container");
        let said = said_until(&podman, &id, "done").await;
        assert!(said.contains("quota exceeded"), "{said}");
        let written = podman.written_bytes("test.counted").await.expect("counted");
        assert!((20 * MIB * 31 / 32..=20 * MIB).contains(&written[&id]), "{written:?}");
    });
}

#[test]
fn xfs_without_project_quotas_holds_no_disk_limits() {
    // Its least size, to its own tools.
    on_host_with_disk(Disk { bytes: 300 * MIB, file_system: "xfs" }, |host| async move {
        assert!(!host.podman().storage().await.expect("described").holds_disk_limits);
    });
}

/// Runs containers that are found by one label.
async fn run_labelled(podman: &Podman, image: &ImageId, count: u16) -> Vec<ContainerId> {
    let mut ids = Vec::new();
    for number in 0..count {
        let mut spec = spec(image);
        spec.name = format!("listed-{number}");
        spec.published.set_port(20_000 + number);
        spec.labels.insert("test.listed".to_owned(), number.to_string());
        ids.push(podman.run(&spec).await.expect("a container"));
    }
    ids
}

#[test]
fn the_list_says_what_an_inspection_of_each_says() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let script = "trap 'exit 3' TERM; while :; do /bin/busybox sleep 0.05; done";
        let image = image(&podman, &host.dir().join("app"), "", script).await;
        let ids = run_labelled(&podman, &image, 2).await;
        let list = async || {
            let listed = podman.containers("test.listed").await.expect("a list").known();
            for container in &listed {
                assert_eq!(*container, podman.container(&container.id).await.expect("the container"));
            }
            listed
        };
        let begun = list().await;
        assert!(begun.iter().all(|one| one.state == ContainerState::Running), "{begun:?}");
        assert!(begun.iter().all(|one| one.network_namespace.is_some() && one.published.is_some()));
        podman.stop(&ids[0], Duration::from_secs(10)).await.expect("stopped");
        let stopped = list().await;
        let exited = ContainerState::Exited { code: 3, out_of_memory: false };
        assert_eq!(stopped.iter().find(|one| one.id == ids[0]).expect("listed").state, exited);
        podman.start(&ids[0]).await.expect("started again");
        let again = list().await;
        assert!(again.iter().all(|one| one.state == ContainerState::Running), "{again:?}");
        podman.remove(&ids[0]).await.expect("removed");
        assert_eq!(list().await.into_iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..]);
    });
}

#[test]
fn a_damaged_container_hides_no_other() {
    on_host(|mut host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let image = image(&podman, &host.dir().join("app"), "", SERVER).await;
        let ids = run_labelled(&podman, &image, 2).await;
        host.cut_power();
        let file = containers_file(&host);
        let text = fs::read_to_string(&file).expect("read");
        fs::write(&file, text.replacen(ids[0].as_str(), &"0".repeat(64), 1)).expect("written");
        host.restart();
        podman.container(&ids[0]).await.expect_err("damaged");
        let mut listed = podman.containers("test.listed").await.expect("a list").known();
        listed.sort_by_key(|one| one.published);
        assert_eq!(listed.iter().map(|one| &one.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
        assert_eq!(listed[0].labels["test.listed"], "0");
        assert_eq!(listed[0].image, listed[1].image);
        podman.start(&ids[1]).await.expect("the other starts");
    });
}

/// Where the storage lists its containers.
fn containers_file(host: &Host) -> PathBuf {
    let storage = host.dir().join("podman/storage");
    let files = ["overlay", "vfs"].map(|driver| storage.join(format!("{driver}-containers/containers.json")));
    files.into_iter().find(|file| file.exists()).expect("the containers of the storage")
}
