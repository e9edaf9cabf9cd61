//! How builds end, and what is left of them then: nothing.

use super::{MIB, SERVER, build, build_as, containers_file, nobody, with_network};
use std::{fs, path::PathBuf, time::Duration};
use tokio::{sync::mpsc, time::sleep};
use wisehosting_containers::{
    BaseImage, BuildError, Engine as _,
    testing::{Host, on_host, write_app},
};

#[test]
fn a_build_that_is_dropped_ends_its_step() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        let seconds = unique(7_000_000);
        write_app(&context, &format!("RUN echo asleep; /bin/busybox sleep {seconds}"), SERVER);
        let (log, mut received) = mpsc::channel(1_000);
        let name = host.dir().file_name().expect("a name").to_str().expect("text").to_owned();
        {
            let build = build(&podman, &context, log);
            tokio::pin!(build);
            loop {
                tokio::select! {
                    ended = &mut build => panic!("the build ended: {ended:?}"),
                    line = received.recv() => if line.expect("a line") == "asleep" { break },
                }
            }
            runs_soon(&seconds).await;
            assert_eq!(bounds_of_all_builds(&name), [2 * 3 * 1024 * MIB, 2 * 50, 2 * 200_000]);
            assert!(holds_a_process(&name), "the step is somewhere else");
        }
        assert!(!runs(&seconds), "the step still runs");
        assert!(!is_group(&name), "its control group is left");
    });
}

#[test]
fn a_step_that_begins_after_its_build_was_dropped_is_ended() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        let seconds = unique(27_000_000);
        let name = host.dir().file_name().expect("a name").to_str().expect("text").to_owned();
        // The longer it is waited after a step is named, the further is its preparation.
        for wait in [0, 10, 20, 40] {
            write_app(&context, &format!("RUN exec /bin/busybox sleep {seconds}.{wait}"), SERVER);
            let (log, mut received) = mpsc::channel(1_000);
            {
                let build = build(&podman, &context, log);
                tokio::pin!(build);
                loop {
                    tokio::select! {
                        ended = &mut build => panic!("the build ended: {ended:?}"),
                        line = received.recv() => if line.expect("a line").contains("RUN") { break },
                    }
                }
                sleep(Duration::from_millis(wait)).await;
            }
            has_no_containers(&host).await;
            assert!(!runs(&format!("{seconds}.{wait}")), "the step runs");
        }
        for _ in 0..100 {
            if !is_group(&name) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("its control group is left");
    });
}

/// Waits until the storage has no container: a build has one for as long as it goes on.
async fn has_no_containers(host: &Host) {
    let file = containers_file(host);
    for _ in 0..500 {
        if fs::read_to_string(&file).is_ok_and(|text| text.trim() == "[]") {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the build goes on");
}

#[test]
fn what_a_killed_program_left_of_a_build_is_ended() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        let seconds = unique(17_000_000);
        write_app(&context, &format!("RUN echo asleep; /bin/busybox sleep {seconds}"), SERVER);
        let (log, mut received) = mpsc::channel(1_000);
        let mut build = Box::pin(build(&podman, &context, log));
        loop {
            tokio::select! {
                ended = &mut build => panic!("the build ended: {ended:?}"),
                line = received.recv() => if line.expect("a line") == "asleep" { break },
            }
        }
        // As when the program is killed: nothing of it is dropped.
        std::mem::forget(build);
        runs_soon(&seconds).await;
        let name = host.dir().file_name().expect("a name").to_str().expect("text").to_owned();
        podman.end_build(&name);
        assert!(!runs(&seconds), "the step still runs");
        assert!(!is_group(&name), "its control group is left");
    });
}

#[test]
fn a_build_cannot_fill_the_host_with_processes() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        let bomb = "RUN i=0; while [ $i -lt 100 ]; do i=$((i+1)); /bin/busybox sleep 2 & done; echo $i; wait";
        write_app(&context, bomb, SERVER);
        let error = build(&podman, &context, nobody()).await.expect_err("a hundred processes");
        assert!(matches!(error, BuildError::TooManyProcesses { limit: 50, .. }), "{error:?}");
    });
}

/// Whether any control group of the machine has this in its name.
fn is_group(name: &str) -> bool {
    let mounts = fs::read_dir("/sys/fs/cgroup").expect("control groups").flatten();
    let mut groups = mounts.filter_map(|mount| fs::read_dir(mount.path()).ok()).flatten().flatten();
    groups.any(|group| group.file_name().to_str().is_some_and(|group| group.contains(name)))
}

/// The group above all builds of a host with this name, in each hierarchy that has one.
fn groups_of_builds(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_dir("/sys/fs/cgroup").expect("control groups").flatten().map(|mount| mount.path());
    let groups = mounts.chain(["/sys/fs/cgroup".into()]);
    let groups = groups.map(|mount| mount.join(format!("wisehosting_builds{name}.slice")));
    groups.filter(|group| group.is_dir()).collect()
}

/// Memory, processes, and processor time in a tenth of a second in microseconds, of all builds of a host together.
fn bounds_of_all_builds(name: &str) -> [u64; 3] {
    let groups = groups_of_builds(name);
    let bound = |files: [&str; 2]| {
        let mut files = groups.iter().flat_map(|group| files.map(|file| group.join(file)));
        let text = files.find_map(|file| fs::read_to_string(file).ok()).expect("a bound");
        text.split_whitespace().next().expect("a word").parse().expect("a number")
    };
    [["memory.limit_in_bytes", "memory.max"], ["pids.max", "pids.max"], ["cpu.cfs_quota_us", "cpu.max"]]
        .map(bound)
}

/// Whether a step of a build of this host runs in its group in each hierarchy that bounds it.
fn holds_a_process(name: &str) -> bool {
    let steps =
        groups_of_builds(name).into_iter().map(|group| group.join(format!("build-{name}/step/cgroup.procs")));
    steps
        .map(|file| fs::read_to_string(file).unwrap_or_default())
        .all(|processes| !processes.trim().is_empty())
}

/// A number that no other run of these tests has, such as one beside this one on the same machine.
fn unique(base: u32) -> String {
    (base + std::process::id()).to_string()
}

/// Whether a program with this argument runs anywhere on the machine.
fn runs(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let mut commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| command.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
}

/// A shell says so before it starts the program.
async fn runs_soon(argument: &str) {
    for _ in 0..500 {
        if runs(argument) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing runs with {argument}");
}

#[test]
fn a_step_that_was_done_before_is_not_done_again() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        write_app(&context, "RUN echo this is done", SERVER);
        for is_done in [false, true] {
            let (log, mut received) = mpsc::channel(1_000);
            build(&podman, &context, log).await.expect("an image");
            let mut lines = Vec::new();
            while let Some(line) = received.recv().await {
                lines.push(line);
            }
            assert_eq!(lines.iter().any(|line| line == "this is done"), !is_done, "{lines:#?}");
        }
    });
}

#[test]
fn a_base_image_is_in_use_while_something_is_made_of_it() {
    on_host(|host| async move {
        let podman = host.podman();
        with_network(&podman).await;
        let context = host.dir().join("context");
        write_app(&context, "", SERVER);
        let name = "docker.io/library/base:1";
        let base = build_as(&podman, &context, name, nobody()).await.expect("an image");
        let bases = async || podman.base_images().await.expect("a list");
        assert_eq!(bases().await, [BaseImage { id: base.clone(), in_use: false }]);
        fs::write(context.join("Dockerfile"), format!("FROM {name}\nRUN echo\nRUN echo again"))
            .expect("written");
        let made = build(&podman, &context, nobody()).await.expect("an image");
        assert_eq!(bases().await, [BaseImage { id: base.clone(), in_use: true }]);
        podman.remove_image(&made).await.expect("removed");
        podman.remove_old_layers(Duration::ZERO).await.expect("removed");
        assert_eq!(bases().await, [BaseImage { id: base.clone(), in_use: false }]);
        podman.remove_image(&base).await.expect("removed");
        assert_eq!(bases().await, []);
    });
}
