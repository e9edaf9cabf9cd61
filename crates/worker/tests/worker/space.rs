//! A disk that fills up, with a real Podman on it.

use crate::support::{Worker, deploy_job, get, repository, start_with, stop_job};
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};
use wisehosting_containers::testing::{Disk, Host, on_host_with_disk, write_app};
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
