//! What a build may use, and what it is built by, with a real Podman.

use crate::support::{deploy_job, get, get_path, repository, runs, settings, start, start_with};
use std::{fs, path::Path, time::Duration};
use wisehosting_containers::testing::{on_host, write_app};
use wisehosting_domain::preset::Preset;
use wisehosting_protocol::payload::Outcome;

const SERVER: &str = "exec /bin/busybox httpd -f -p $PORT -h /";

fn app(dir: &Path, name: &str, lines: &str) -> std::path::PathBuf {
    write_app(&dir.join(name), lines, SERVER);
    repository(&dir.join(name))
}

#[test]
fn a_build_that_wants_too_much_dies_alone() {
    on_host(|host| async move {
        let mut worker = start_with(host.podman(), host.dir(), |settings| {
            settings.builds.bounds.memory_bytes = 64 * 1024 * 1024;
            settings.builds.bounds.processes_max = 40;
        })
        .await;
        let neighbour = deploy_job(2, &app(host.dir(), "neighbour", ""));
        let Outcome::Deployed { address, .. } = worker.run(&neighbour).await else {
            panic!("{:#?}", worker.build_log());
        };
        let bomb = "RUN i=0; while [ $i -lt 100 ]; do i=$((i+1)); /bin/busybox sleep 1 & done; wait";
        for (name, lines, expected) in [
            (
                "memory",
                "RUN /bin/busybox awk 'BEGIN { s = \"x\"; while (1) s = s s }'",
                "while (1) s = s s }' used more than the 64 MiB of memory that a build has. Make it use less",
            ),
            ("processes", bomb, "started more than the 40 processes that a build has. Make it use less"),
        ] {
            let message = worker.failure(&deploy_job(1, &app(host.dir(), name, lines))).await;
            assert!(message.contains(expected), "{name}: {message}\n{:#?}", worker.build_log());
            assert!(get(address).await.starts_with("HTTP/1"), "{name} hurt its neighbour");
        }
        drop(worker);

        let limit = Duration::from_secs(3);
        let mut worker =
            start_with(host.podman(), host.dir(), |settings| settings.builds.timeout = limit).await;
        let endless = app(host.dir(), "time", "RUN /bin/busybox sleep 9876543");
        let message = worker.failure(&deploy_job(1, &endless)).await;
        assert!(message.starts_with("The build took longer than 3 s and was stopped."), "{message}");
        assert!(!runs("9876543"), "the step still runs");
        assert!(get(address).await.starts_with("HTTP/1"));
    });
}

#[test]
fn an_image_says_that_it_needs_to_write_to_its_temporary_folder_only() {
    on_host(|host| async move {
        let mut worker = start(host.podman(), host.dir()).await;
        let server = "echo a >/written && echo b >/tmp/written; exec /bin/busybox httpd -f -p $PORT -h /";
        let content = host.dir().join("content");
        write_app(&content, "LABEL wisehosting.read-only=true\nRUN /bin/busybox mkdir /tmp", server);
        let labelled = repository(&content);
        for (said, may_write) in [(None, false), (Some(false), true), (Some(true), false)] {
            let mut job = deploy_job(1, &labelled);
            settings(&mut job).read_only = said;
            let Outcome::Deployed { address, commit, image_id } = worker.run(&job).await else {
                panic!("{:#?}", worker.build_log());
            };
            assert_eq!(get_path(address, "/written").await.contains(" 200 OK"), may_write, "{said:?}");

            let mut again = deploy_job(1, &labelled);
            let kept = settings(&mut again);
            (kept.read_only, kept.image_id, kept.source.commit) = (said, Some(image_id), Some(commit));
            let Outcome::Deployed { address, .. } = worker.run(&again).await else {
                panic!("{:#?}", worker.build_log());
            };
            assert_eq!(get_path(address, "/written").await.contains(" 200 OK"), may_write, "{said:?}");
        }
    });
}

#[test]
fn the_choice_of_a_preset_is_told_and_an_unsuitable_one_explained() {
    on_host(|host| async move {
        let mut worker = start(host.podman(), host.dir()).await;
        let content = host.dir().join("site");
        fs::create_dir(&content).expect("a folder");
        fs::write(content.join("index.html"), "hello").expect("written");
        let site = repository(&content);
        // Its base image comes from a registry, and there is none.
        worker.failure(&deploy_job(1, &site)).await;
        let log = worker.build_log();
        assert!(
            log.iter().any(|line| line == "Building as a static site (there is no Dockerfile; index.html)"),
            "{log:#?}"
        );
        assert!(
            log.iter().any(|line| line.contains("FROM docker.io/nginxinc/nginx-unprivileged")),
            "{log:#?}"
        );

        let mut chosen = deploy_job(1, &site);
        settings(&mut chosen).preset = Some(Preset::Go);
        let message = worker.failure(&chosen).await;
        assert!(message.contains("is to be built as Go, but its repository has no go.mod"), "{message}");
    });
}
