//! The disk limit of an instance, where its file system does not hold it.

use crate::support::{deploy_job, repository, settings, start};
use wisehosting_containers::{
    ContainerState, Engine,
    testing::{on_host, write_app},
};
use wisehosting_domain::{limits::DISK_BYTES, state::ViolationKind};
use wisehosting_protocol::payload::Outcome;

#[test]
fn an_instance_that_writes_more_than_it_may_is_stopped() {
    stops_one_that_writes("", "/big");
}

#[test]
fn so_is_one_that_writes_more_than_it_may_to_a_volume() {
    stops_one_that_writes("VOLUME /data", "/data/big");
}

/// Runs a program that serves first and then writes this file, of an image with more such lines.
fn stops_one_that_writes(lines: &'static str, file: &'static str) {
    on_host(move |host| async move {
        let podman = host.podman();
        assert!(!podman.storage().await.expect("described").holds_disk_limits);
        let mut worker = start(podman.clone(), host.dir()).await;
        let content = host.dir().join("app");
        let script = format!(
            "/bin/busybox httpd -p $PORT -h / && /bin/busybox sleep 3 && \
             /bin/busybox dd if=/dev/zero of={file} bs=1M count=17; exec /bin/busybox sleep 1000"
        );
        write_app(&content, lines, &script);
        let mut job = deploy_job(1, &repository(&content));
        let limits = settings(&mut job).limits;
        settings(&mut job).limits = limits.with_disk(Some(*DISK_BYTES.start())).expect("a limit");
        let Outcome::Deployed { .. } = worker.run(&job).await else { panic!("{:#?}", worker.build_log()) };
        let (instance, kind, _) = worker.violation().await;
        assert_eq!((instance, kind), (job.instance_id, ViolationKind::DiskQuota));
        let is_down = async |podman: &wisehosting_containers::Podman| {
            let found = podman.containers("wisehosting.instance").await.expect("a list").known().remove(0);
            matches!(found.state, ContainerState::Exited { .. })
        };
        while !is_down(&podman).await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
}
