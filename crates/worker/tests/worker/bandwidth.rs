//! The bandwidth limit of an instance, as the kernel has it.

use crate::support::{Worker, deploy_job, repository, start, stop_job};
use std::time::Duration;
use wisehosting_containers::{
    Container, ContainerState, Engine, Podman,
    testing::{on_host, write_app},
};
use wisehosting_network::{Netlink, NetworkNamespace, TokenBucket, observe_shaping};
use wisehosting_protocol::{
    message::AgentMessage,
    payload::{Job, Outcome, Work},
};

const BITS_PER_S: u64 = 5_000_000;
const SCRIPT: &str = "exec /bin/busybox httpd -f -p $PORT -h /";

#[test]
fn a_limit_is_set_in_both_directions_set_again_after_a_restart_and_gone_after_the_stop() {
    on_host(|host| async move {
        let content = host.dir().join("app");
        write_app(&content, "", SCRIPT);
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let job = limited(deploy_job(1, &repository(&content)));
        assert!(matches!(worker.run(&job).await, Outcome::Deployed { .. }), "{:#?}", worker.build_log());
        let limit = Some(TokenBucket::for_rate(BITS_PER_S));
        let before = container(&podman).await;
        assert_eq!(buckets(&before).await, [limit, limit]);

        podman.stop(&before.id, Duration::ZERO).await.expect("stopped");
        ended_and_started(&mut worker).await;
        let after = container(&podman).await;
        assert_ne!(after.network_namespace, before.network_namespace, "it is another one");
        // The worker looks at once, when the log of the program that ended does.
        while buckets(&container(&podman).await).await != [limit, limit] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        assert_eq!(worker.run(&stop_job(1, job.instance_id)).await, Outcome::Stopped);
        let links = Netlink::here().expect("netlink").links().await.expect("the links");
        assert!(links.iter().all(|link| link.kind.as_deref() != Some("veth")), "{links:?}");
    });
}

fn limited(mut job: Job) -> Job {
    if let Work::Deploy(deploy) = &mut job.work {
        deploy.limits = deploy.limits.with_bandwidth(Some(BITS_PER_S)).expect("a limit");
    }
    job
}

async fn container(podman: &Podman) -> Container {
    let mut containers = podman.containers("wisehosting.instance").await.expect("a list").known();
    containers.pop().expect("a container")
}

/// What shapes the container's end and the host's.
async fn buckets(container: &Container) -> Vec<Option<TokenBucket>> {
    assert_eq!(container.state, ContainerState::Running);
    let path = container.network_namespace.as_ref().expect("a namespace");
    let namespace = NetworkNamespace::at_path(path).expect("the namespace");
    let observed = observe_shaping(&namespace, &Netlink::here().expect("netlink")).await;
    observed.expect("observed").into_iter().map(|link| link.bucket).collect()
}

async fn ended_and_started(worker: &mut Worker) {
    for state in [false, true] {
        let status = worker.wait("status", |message| match message {
            AgentMessage::AppStatus(status) if status.running == state => Some(()),
            _ => None,
        });
        status.await;
    }
}
