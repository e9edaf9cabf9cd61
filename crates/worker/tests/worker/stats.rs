//! What an instance uses, as its worker tells it.

use crate::support::{Worker, deploy_job, get_path, repository, start, stop_job};
use std::{net::Ipv4Addr, time::Duration};
use tokio::net::TcpStream;
use wisehosting_containers::{
    Engine,
    testing::{on_host, write_app},
};
use wisehosting_domain::{id::InstanceId, usage::Usage};
use wisehosting_protocol::{message::AgentMessage, payload::Outcome};

const MIB: u64 = 1024 * 1024;
const FILE: &str = "RUN /bin/busybox dd if=/dev/zero of=/big bs=1M count=2";
/// Uses processor time without end, and memory, and sends what it is asked for.
const SCRIPT: &str = "/bin/busybox dd if=/dev/zero of=/dev/shm/used bs=1M count=16; (while :; do :; done) & \
                      exec /bin/busybox httpd -f -p $PORT -h /";

#[test]
fn what_an_instance_uses_is_told_from_its_start_to_its_end() {
    on_host(|host| async move {
        let content = host.dir().join("app");
        write_app(&content, FILE, SCRIPT);
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let job = deploy_job(1, &repository(&content));
        let Outcome::Deployed { address, .. } = worker.run(&job).await else {
            panic!("{:#?}", worker.build_log())
        };

        let first = used(&mut worker, job.instance_id, |usage| usage.cpu_us > 100_000).await;
        assert!((16 * MIB..=64 * MIB).contains(&first.memory_bytes), "{first:?}");
        assert!((2..=32).contains(&first.processes), "{first:?}");
        assert!(first.sent_bytes < MIB, "{first:?}");
        assert!(get_path(address, "/big").await.len() as u64 > 2 * MIB);
        let later = used(&mut worker, job.instance_id, |usage| usage.sent_bytes > 2 * MIB).await;
        assert!(later.received_bytes > first.received_bytes && later.received_bytes < MIB, "{later:?}");
        assert!(later.cpu_us > first.cpu_us, "{later:?}");

        let container = podman.containers("wisehosting.instance").await.expect("a list").known().remove(0);
        podman.stop(&container.id, Duration::ZERO).await.expect("stopped");
        let again = used(&mut worker, job.instance_id, |usage| usage.sent_bytes < MIB).await;
        assert!(again.received_bytes < MIB, "it was started again, on a link of its own: {again:?}");

        // The mesh of this worker is the loopback, where it is refused.
        TcpStream::connect((Ipv4Addr::LOCALHOST, 1)).await.expect_err("nobody listens");
        assert_eq!(worker.run(&stop_job(1, job.instance_id)).await, Outcome::Stopped);
        let last = worker.wait("stats without the instance", |message| match message {
            AgentMessage::AppStats(stats) if stats.instances.is_empty() => Some(stats.host),
            _ => None,
        });
        let last = last.await;
        assert!(0 < last.disk_bytes_used && last.disk_bytes_used <= last.disk_bytes, "{last:?}");
        assert!(last.mesh_received_bytes > 0 && last.mesh_sent_bytes > 0, "{last:?}");
    });
}

/// What the instance uses once that is as wanted.
async fn used(worker: &mut Worker, instance: InstanceId, wanted: impl Fn(&Usage) -> bool) -> Usage {
    let told = worker.wait("stats as wanted", |message| {
        let AgentMessage::AppStats(stats) = message else { return None };
        let of_instance = stats.instances.iter().find(|stats| stats.instance_id == instance)?;
        wanted(&of_instance.usage).then_some(of_instance.usage)
    });
    told.await
}
