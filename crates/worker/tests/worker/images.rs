//! Images that are kept to be started again, and those that are not, in a real Podman.

use crate::support::{Worker, delete_job, deploy_job, get, repository, settings, start, stop_job};
use std::{net::SocketAddr, path::Path};
use wisehosting_containers::{
    Engine, Podman,
    testing::{on_host, write_app},
};
use wisehosting_domain::source::Commit;
use wisehosting_protocol::payload::{Job, Outcome};

/// What one deploy made.
struct Deployed {
    job: Job,
    commit: Commit,
    image: String,
    address: SocketAddr,
}

async fn deploy(worker: &mut Worker, job: Job) -> Deployed {
    match worker.run(&job).await {
        Outcome::Deployed { commit, image_id, address } => Deployed { job, commit, image: image_id, address },
        other => panic!("{other:?}\n{:#?}", worker.build_log()),
    }
}

/// A deploy of what another one has built.
fn again(of: &Deployed) -> Job {
    let mut job = deploy_job(1, Path::new("/nowhere/by/now"));
    settings(&mut job).source.commit = Some(of.commit.clone());
    settings(&mut job).image_id = Some(of.image.clone());
    job
}

async fn images(podman: &Podman) -> Vec<String> {
    let images = podman.images("wisehosting.origin").await.expect("a list");
    images.iter().map(|image| image.id.to_string()).collect()
}

/// Versions of an app, each built of a commit of its own.
async fn versions<const N: usize>(worker: &mut Worker, dir: &Path) -> [Deployed; N] {
    let mut versions = Vec::new();
    for number in 1..=N {
        let content = dir.join(format!("version-{number}"));
        let page = format!("RUN /bin/busybox mkdir /www && echo version {number} >/www/index.html");
        write_app(&content, &page, "exec /bin/busybox httpd -f -p $PORT -h /www");
        versions.push(deploy(worker, deploy_job(1, &repository(&content))).await);
    }
    versions.try_into().ok().expect("as many as there are")
}

#[test]
fn a_kept_image_is_started_again_without_a_build_and_a_deleted_app_leaves_nothing() {
    on_host(|host| async move {
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let [first, second] = versions(&mut worker, host.dir()).await;
        for stopped in [&first, &second] {
            assert_eq!(worker.run(&stop_job(1, stopped.job.instance_id)).await, Outcome::Stopped);
        }

        worker.heard.clear();
        let old = deploy(&mut worker, again(&first)).await;
        assert_eq!((&old.image, &old.commit), (&first.image, &first.commit));
        assert!(get(old.address).await.ends_with("version 1\n"));
        let log = worker.build_log();
        assert!(log[0].ends_with("from the image that is kept"), "{log:?}");

        // Somebody else's image is none of its business.
        let content = host.dir().join("other");
        write_app(&content, "", "exec /bin/busybox httpd -f -p $PORT -h /");
        let other = deploy(&mut worker, deploy_job(2, &repository(&content))).await;
        assert_eq!(worker.run(&delete_job(1, old.job.instance_id)).await, Outcome::Deleted);
        assert_eq!(images(&podman).await, [other.image]);
        let containers = podman.containers("wisehosting.instance").await.expect("a list").known();
        assert_eq!(containers.len(), 1, "{containers:?}");
        assert_eq!(worker.run(&delete_job(1, old.job.instance_id)).await, Outcome::Deleted, "gone before");
    });
}

#[test]
fn images_that_are_neither_used_nor_among_the_newest_are_removed() {
    on_host(|host| async move {
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let [first, second, third] = versions(&mut worker, host.dir()).await;
        assert_eq!(images(&podman).await.len(), 3, "all of them run");
        for stopped in [&first, &second] {
            worker.run(&stop_job(1, stopped.job.instance_id)).await;
        }
        let fourth = deploy(&mut worker, again(&third)).await;
        // What is gone is built again: here its repository is gone, too.
        let message = worker.failure(&again(&first)).await;
        let mut kept = images(&podman).await;
        kept.sort();
        let mut newest = [second.image.clone(), third.image.clone()];
        newest.sort();
        assert_eq!(kept, newest, "as many as are kept");

        assert!(message.contains("no repository at /nowhere/by/now"), "{message}");
        assert!(worker.build_log().iter().any(|line| line.ends_with("anew: its image is not kept here")));
        // A deploy that fails removes no image that was there before.
        let mut failing = again(&third);
        settings(&mut failing).health_path = "/missing\n".to_owned();
        worker.failure(&failing).await;
        assert_eq!(images(&podman).await.len(), 2);
        assert!(get(fourth.address).await.ends_with("version 3\n"));
    });
}
