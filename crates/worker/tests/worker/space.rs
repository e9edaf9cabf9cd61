//! A disk that fills up, with a real Podman on it.

use crate::support::{Worker, deploy_job, get, repository, settings, start_with, stop_job};
use nix::sys::statvfs::statvfs;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};
use wisehosting_containers::testing::{Disk, Host, on_host, on_host_with_disk, write_app};
use wisehosting_protocol::payload::{Job, Outcome};

const MIB: u64 = 1024 * 1024;
const SMALL: Disk = Disk { bytes: 128 * MIB, file_system: "ext4" };

async fn start(host: &Host, dir: &Path) -> Worker {
    start_with(host.podman(), dir, |settings| {
        settings.space.free_min_bytes = 16 * MIB;
        settings.space.reserve_bytes = 8 * MIB;
        settings.images_kept = 1;
    })
    .await
}

/// A deploy of an app that is built with one more line.
fn deploy(dir: &Path, app: u128, name: &str, line: &str) -> Job {
    let content = dir.join(name);
    write_app(&content, line, "exec /bin/busybox httpd -f -p $PORT -h /");
    deploy_job(app, &repository(&content))
}

async fn deployed(worker: &mut Worker, job: &Job) -> std::net::SocketAddr {
    match worker.run(job).await {
        Outcome::Deployed { address, .. } => address,
        other => panic!("{other:?}\n{:#?}", worker.build_log()),
    }
}

/// Leaves not a byte.
fn fill(dir: &Path) {
    let mut file = File::create(dir.join("filler")).expect("a file");
    for size in [MIB, 4096, 1] {
        let size = usize::try_from(size).expect("a size");
        let full = loop {
            if let Err(error) = file.write_all(&vec![0; size]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
    file.sync_all().expect("written");
}

#[test]
fn a_disk_that_a_build_or_an_app_has_filled_can_be_used_again() {
    on_host_with_disk(SMALL, |host| async move {
        let elsewhere = tempfile::tempdir().expect("a folder");
        let dir = elsewhere.path();
        let mut worker = start(&host, dir).await;
        let ours = deploy(dir, 2, "neighbour", "");
        let neighbour = deployed(&mut worker, &ours).await;
        let bomb = deploy(dir, 1, "bomb", "RUN /bin/busybox dd if=/dev/zero of=/big bs=1M");
        let message = worker.failure(&bomb).await;
        let told = message.starts_with("The build was stopped: it filled the worker's disk")
            || message.contains("found no space left on the worker's disk");
        assert!(told, "{message}");
        assert!(get(neighbour).await.starts_with("HTTP/1"), "the bomb hurt its neighbour");

        let large = "RUN /bin/busybox dd if=/dev/zero of=/big bs=1M count=20";
        let first = deploy(dir, 1, "first", large);
        deployed(&mut worker, &first).await;
        deployed(&mut worker, &deploy(dir, 1, "second", "")).await;
        worker.run(&stop_job(1, first.instance_id)).await;
        fill(host.dir());
        let third = deployed(&mut worker, &deploy(dir, 3, "third", "")).await;
        assert!(get(third).await.starts_with("HTTP/1"));

        fill(host.dir());
        let message = worker.failure(&deploy(dir, 3, "fourth", "")).await;
        assert!(message.ends_with(" MiB are free, 16 MiB have to be. Delete apps that are not needed, or have the worker's operator make room; then deploy again."), "{message}");
        assert!(get(neighbour).await.starts_with("HTTP/1"));
        assert_eq!(worker.run(&stop_job(2, ours.instance_id)).await, Outcome::Stopped, "as the message says");
    });
}

/// A repository that is small, and whose files are not.
fn unpacking_to(content: &Path, mib: u64) -> std::path::PathBuf {
    write_app(content, "", "exec /bin/busybox httpd -f -p $PORT -h /");
    // Of zeros git would make a hole.
    let mut file = File::create(content.join("big")).expect("a file");
    for _ in 0..mib {
        file.write_all(&[b'x'; 1 << 20]).expect("written");
    }
    let bare = repository(content);
    fs::remove_file(content.join("big")).expect("removed");
    bare
}

#[test]
fn a_repository_that_unpacks_to_more_than_there_is_room_for_fails_alone() {
    on_host_with_disk(SMALL, |host| async move {
        let elsewhere = tempfile::tempdir().expect("a folder");
        let work_dir = host.dir().join("work");
        let mut worker = start_with(host.podman(), elsewhere.path(), |settings| {
            settings.space.free_min_bytes = 32 * MIB;
            settings.work_dir = work_dir.clone();
        })
        .await;
        let free = || {
            let disk = statvfs(host.dir()).expect("its room");
            disk.blocks_free() * disk.fragment_size()
        };
        let ours = deploy(elsewhere.path(), 2, "neighbour", "");
        let neighbour = deployed(&mut worker, &ours).await;
        let before = free();
        let mut bomb = deploy_job(1, &unpacking_to(&elsewhere.path().join("bomb"), 200));
        settings(&mut bomb).deadline_ms = 600_000;
        let message = worker.failure(&bomb).await;
        let told = message
            .starts_with("Fetching the repository was stopped: its files filled the worker's disk, of");
        assert!(told, "{message}");
        assert!(message.contains(" 16 MiB have to stay free."), "{message}");
        assert!(free() + 4 * MIB > before, "{} of {before} bytes are free again", free());
        assert_eq!(fs::read_dir(&work_dir).expect("the folder").count(), 0);
        assert!(get(neighbour).await.starts_with("HTTP/1"), "the bomb hurt its neighbour");
        deployed(&mut worker, &deploy(elsewhere.path(), 3, "next", "")).await;
    });
}

#[test]
fn a_repository_that_takes_too_much_memory_to_unpack_fails_alone() {
    on_host(|host| async move {
        let mut worker = start_with(host.podman(), host.dir(), |settings| {
            settings.builds.bounds.memory_bytes = 64 * MIB;
        })
        .await;
        let bomb = deploy_job(1, &unpacking_to(&host.dir().join("bomb"), 300));
        let message = worker.failure(&bomb).await;
        let told =
            message.contains(" took more than the 64 MiB of memory that a build has, and was stopped.");
        assert!(told, "{message}");
        deployed(&mut worker, &deploy(host.dir(), 2, "next", "")).await;
    });
}
