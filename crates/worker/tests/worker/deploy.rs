//! Deploys of real repositories into a real Podman.

use crate::support::{
    Worker, deploy_job, get, git, repository, runs, settings, start, start_with, stop_job, strict,
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use wisehosting_containers::{
    ContainerState, Engine, Podman,
    testing::{Host, on_host, write_app},
};
use wisehosting_domain::state::{DeploymentState, ViolationKind};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage, JobCancel},
    payload::{Job, JobRef, Outcome, Stop, Work},
};
use wisehosting_worker::restart::RestartPolicy;

/// Serves the file `/www/index.html` that says `$GREETING`.
const SERVER: &str =
    "echo $GREETING > /www/index.html; echo serving; exec /bin/busybox httpd -f -p $PORT -h /www";
const SERVER_LINES: &str = "RUN /bin/busybox mkdir /www";

fn app(host: &Host, name: &str, lines: &str, script: &str) -> PathBuf {
    let content = host.dir().join(name);
    write_app(&content, lines, script);
    repository(&content)
}

async fn deployed(worker: &mut Worker, job: &Job) -> SocketAddr {
    match worker.run(job).await {
        Outcome::Deployed { address, image_id, .. } => {
            assert!(image_id.starts_with("sha256:"), "{image_id}");
            address
        }
        other => panic!("{other:?}\n{:#?}", worker.build_log()),
    }
}

async fn instances(podman: &Podman) -> usize {
    podman.containers("wisehosting.instance").await.expect("a list").known().len()
}

fn assert_no_workspace(host: &Host) {
    assert_eq!(fs::read_dir(host.dir().join("work")).expect("the folder").count(), 0);
}

fn states(worker: &Worker, job: &Job) -> Vec<DeploymentState> {
    let states = worker.heard.iter().filter_map(|message| match message {
        AgentMessage::JobStatus(status) if status.job_id == job.job_id => Some(status.state),
        _ => None,
    });
    states.collect()
}

#[test]
fn a_repository_becomes_an_instance_that_serves_until_it_is_stopped() {
    on_host(|host| async move {
        let repository = app(&host, "hello", &format!("EXPOSE 3000\n{SERVER_LINES}"), SERVER);
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let job = deploy_job(1, &repository);
        let address = deployed(&mut worker, &job).await;
        assert!(get(address).await.ends_with("hello\n"));
        let expected = [
            DeploymentState::Cloning,
            DeploymentState::Building,
            DeploymentState::Starting,
            DeploymentState::Checking,
        ];
        assert_eq!(states(&worker, &job), expected);
        let log = worker.build_log();
        assert!(
            log.iter().any(|line| line.starts_with("STEP 1/") && line.contains("FROM scratch")),
            "{log:?}"
        );
        assert!(log.iter().any(|line| line.contains("port 3000")), "the image's only port is taken: {log:?}");
        let said = worker.find("line of the program", |message| match message {
            AgentMessage::RuntimeLog(log) => Some((log.instance_id, log.lines[0].text.clone())),
            _ => None,
        });
        assert_eq!(said.await, (job.instance_id, "serving".to_owned()));
        assert_no_workspace(&host);

        assert_eq!(worker.run(&stop_job(1, job.instance_id)).await, Outcome::Stopped);
        TcpStream::connect(address).await.expect_err("it still serves");
        assert_eq!(instances(&podman).await, 0);
        assert_eq!(worker.run(&stop_job(1, job.instance_id)).await, Outcome::Stopped, "gone before");
    });
}

#[test]
fn what_cannot_be_deployed_is_explained_and_the_old_version_serves_on() {
    on_host(|host| async move {
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let good = deploy_job(1, &app(&host, "good", SERVER_LINES, SERVER));
        let address = deployed(&mut worker, &good).await;

        for (name, lines, script, expected) in [
            (
                "failing",
                "RUN echo oops; exit 4",
                SERVER,
                "the build failed at RUN echo oops; exit 4: exit status 4",
            ),
            (
                "crashing",
                "",
                "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo word $i; done; exit 3",
                "ended with exit status 3 before it answered. Its last lines: word 196 / word 197",
            ),
            ("ending", "", "true", "ended by itself before it answered"),
            ("deaf", "", "exec /bin/busybox sleep 1000", "Nothing listens on port 8080"),
            ("greedy", "", "exec /bin/busybox dd if=/dev/zero of=/dev/null bs=200M", "memory limit"),
            (
                "elsewhere",
                "",
                "exec /bin/busybox httpd -f -p 127.0.0.1:8080 -h /",
                "Nothing listens on port 8080",
            ),
        ] {
            let mut job = deploy_job(1, &app(&host, name, lines, script));
            settings(&mut job).health_timeout_ms = 2_000;
            let message = worker.failure(&job).await;
            assert!(message.contains(expected), "{name}: {message}");
            assert_eq!(instances(&podman).await, 1, "{name} left its container");
            assert_no_workspace(&host);
            assert!(get(address).await.ends_with("hello\n"), "{name} touched what serves");
        }
        let log = worker.build_log();
        assert!(log.iter().any(|line| line == "oops"), "the log has the step's own words");
        let said = log.iter().filter(|line| line.starts_with("word "));
        let all: Vec<String> = (1..=200).map(|number| format!("word {number}")).collect();
        assert!(said.eq(&all), "the log has what the program wrote: {log:#?}");
    });
}

#[test]
fn a_repository_without_a_dockerfile_is_explained() {
    on_host(|host| async move {
        let mut worker = start(host.podman(), host.dir()).await;
        let content = host.dir().join("plain");
        fs::create_dir(&content).expect("a folder");
        fs::write(content.join("README"), "hello").expect("written");
        let message = worker.failure(&deploy_job(1, &repository(&content))).await;
        assert!(
            message.starts_with("The repository has no Dockerfile at its root, and nothing there"),
            "{message}"
        );

        let content = host.dir().join("stealing");
        fs::create_dir(&content).expect("a folder");
        std::os::unix::fs::symlink("/etc/shadow", content.join("Dockerfile")).expect("a link");
        let message = worker.failure(&deploy_job(1, &repository(&content))).await;
        assert!(message.starts_with("The Dockerfile of the repository is a folder, or a link"), "{message}");

        let mut job = deploy_job(1, Path::new("/nowhere/at/all"));
        let message = worker.failure(&job).await;
        assert_eq!(message, "There is no repository at /nowhere/at/all. Check the address.");
        settings(&mut job).health_path = "/ HTTP/1.1\r\nX: y".to_owned();
        job.job_id = stop_job(1, job.instance_id).job_id;
        assert!(worker.failure(&job).await.contains("is not a path for the health probe"));
        assert_no_workspace(&host);
    });
}

#[test]
fn a_build_that_is_called_off_ends_at_once() {
    on_host(|host| async move {
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let lines = "RUN echo asleep; /bin/busybox sleep 8765432";
        let job = deploy_job(1, &app(&host, "slow", lines, SERVER));
        worker.tell(job.clone()).await;
        worker
            .wait("line of the build", |message| match message {
                AgentMessage::BuildLog(log) => {
                    log.lines.iter().find(|line| line.text == "asleep").map(|_| ())
                }
                _ => None,
            })
            .await;
        worker.tell(HubMessage::JobCancel(JobCancel(JobRef { job_id: job.job_id }))).await;
        assert_eq!(worker.result(&job).await, Outcome::Cancelled);
        assert!(!runs("8765432"), "the step still runs");
        assert_eq!(instances(&podman).await, 0);
        assert_no_workspace(&host);
    });
}

/// Counts aloud, serves, and ends with status 7 when `/cgi-bin/end` is asked for.
const MORTAL: &str = "/bin/busybox httpd -f -p $PORT -h /www & echo $! > /pid; \
                      (i=0; while :; do i=$((i+1)); echo tick $i; /bin/busybox sleep 0.1; done) & \
                      wait $(/bin/busybox cat /pid); exit 7";
const MORTAL_LINES: &str = "COPY end /www/cgi-bin/end\nRUN /bin/busybox chmod 755 /www/cgi-bin/end";

async fn tick(worker: &mut Worker) -> u64 {
    let number = |text: &str| text.strip_prefix("tick ").and_then(|number| number.parse().ok());
    worker
        .wait("tick", |message| match message {
            AgentMessage::RuntimeLog(log) => log.lines.iter().rev().find_map(|line| number(&line.text)),
            _ => None,
        })
        .await
}

async fn is_running(worker: &mut Worker) -> (bool, Option<i64>) {
    worker
        .wait("status of the instance", |message| match message {
            AgentMessage::AppStatus(status) => Some((status.running, status.exit_code)),
            _ => None,
        })
        .await
}

#[test]
fn an_instance_outlives_its_worker_and_is_started_again_when_it_ends() {
    on_host(|host| async move {
        let content = host.dir().join("mortal");
        write_app(&content, MORTAL_LINES, MORTAL);
        fs::write(content.join("end"), "#!/bin/sh\nkill $(/bin/busybox cat /pid)\n").expect("written");
        let mut worker = start(host.podman(), host.dir()).await;
        let address = deployed(&mut worker, &deploy_job(1, &repository(&content))).await;
        let before = tick(&mut worker).await;
        drop(worker);

        let mut worker = start(host.podman(), host.dir()).await;
        assert_eq!(is_running(&mut worker).await, (true, None), "found by its label");
        let after = tick(&mut worker).await;
        assert!(after > before, "{after} was told before {before}");

        let mut stream = TcpStream::connect(address).await.expect("it still serves");
        stream.write_all(b"GET /cgi-bin/end HTTP/1.0\r\n\r\n").await.expect("asked");
        while is_running(&mut worker).await != (false, Some(7)) {}
        while is_running(&mut worker).await != (true, None) {}
        let counts_anew = |message: &AgentMessage| match message {
            AgentMessage::RuntimeLog(log) => log.lines.iter().find(|line| line.text == "tick 1").map(drop),
            _ => None,
        };
        worker.find("first tick of the next run", counts_anew).await;
        TcpStream::connect(address).await.expect("it serves again, at the same address");
    });
}

#[test]
fn a_redeploy_of_the_same_commit_stands_beside_the_old_one() {
    on_host(|host| async move {
        let podman = host.podman();
        let mut worker = start(podman.clone(), host.dir()).await;
        let repository = app(&host, "hello", SERVER_LINES, SERVER);
        let (old, new) = (deploy_job(1, &repository), deploy_job(1, &repository));
        let old_address = deployed(&mut worker, &old).await;
        let new_address = deployed(&mut worker, &new).await;
        assert_ne!(old_address, new_address);
        assert!(get(old_address).await.ends_with("hello\n"));
        assert_eq!(worker.run(&stop_job(1, old.instance_id)).await, Outcome::Stopped);
        assert!(get(new_address).await.ends_with("hello\n"), "the image that both ran is kept");
        assert!(!git(&repository, &["rev-parse", "main"]).is_empty());
    });
}

#[test]
fn a_program_that_ignores_its_end_does_not_hold_up_the_next_deploy() {
    on_host(|host| async move {
        let mut worker = start(host.podman(), host.dir()).await;
        let stubborn = format!("trap '' TERM; {SERVER}");
        let old = deploy_job(1, &app(&host, "stubborn", SERVER_LINES, &stubborn.replace("exec ", "")));
        let address = deployed(&mut worker, &old).await;
        let mut stop = stop_job(1, old.instance_id);
        stop.work = Work::Stop(Stop { grace_ms: 600_000 });
        worker.tell(stop).await;
        deployed(&mut worker, &deploy_job(1, &app(&host, "next", SERVER_LINES, SERVER))).await;
        assert!(get(address).await.ends_with("hello\n"), "it has its time");
    });
}

#[test]
fn two_deploys_at_a_time_share_the_last_two_ports() {
    on_host(|host| async move {
        let mut worker =
            start_with(host.podman(), host.dir(), |settings| settings.ports = 20_000..=20_001).await;
        let repository = app(&host, "hello", SERVER_LINES, SERVER);
        let jobs = [deploy_job(1, &repository), deploy_job(2, &repository)];
        for job in &jobs {
            worker.tell(job.clone()).await;
        }
        let mut ports = Vec::new();
        for _ in &jobs {
            let deployed = worker.wait("result", |message| match message {
                AgentMessage::JobResult(result) => Some(result.outcome.clone()),
                _ => None,
            });
            match deployed.await {
                Outcome::Deployed { address, .. } => ports.push(address.port()),
                other => panic!("{other:?}\n{:#?}", worker.build_log()),
            }
        }
        ports.sort_unstable();
        assert_eq!(ports, [20_000, 20_001]);
        let message = worker.failure(&deploy_job(3, &repository)).await;
        assert!(message.contains("no free port"), "{message}");
    });
}

/// Serves until `/cgi-bin/end` is asked for; then its only program uses more memory than it may.
const HOG: &str = "/bin/busybox httpd -p $PORT -h /www; while [ ! -e /go ]; do /bin/busybox sleep 0.05; done; \
                   exec /bin/busybox dd if=/dev/zero of=/dev/null bs=200M";

/// Deploys an app that does as `/cgi-bin/end` says when it is asked for, and asks for it.
async fn deployed_and_ended(worker: &mut Worker, host: &Host, script: &str, end: &str) -> Job {
    let content = host.dir().join("ending");
    write_app(&content, MORTAL_LINES, script);
    fs::write(content.join("end"), format!("#!/bin/sh\n{end}\n")).expect("written");
    let job = deploy_job(1, &repository(&content));
    let address = deployed(worker, &job).await;
    let mut stream = TcpStream::connect(address).await.expect("it serves");
    stream.write_all(b"GET /cgi-bin/end HTTP/1.0\r\n\r\n").await.expect("asked");
    job
}

/// Waits for the instance to be told as stopped, and looks whether that is so.
async fn stays_down(worker: &mut Worker, podman: &Podman) -> ContainerState {
    worker
        .wait("status of a stopped instance", |message| match message {
            AgentMessage::AppStatus(status) => status.stopped.then_some(()),
            _ => None,
        })
        .await;
    podman.containers("wisehosting.instance").await.expect("a list").known()[0].state
}

#[test]
fn an_instance_that_uses_more_memory_than_it_may_is_stopped_and_told() {
    on_host(|host| async move {
        let mut worker =
            start_with(host.podman(), host.dir(), |settings| settings.restart = RestartPolicy::default())
                .await;
        let job = deployed_and_ended(&mut worker, &host, HOG, "echo > /go").await;
        let (instance, kind, _) = worker.violation().await;
        assert_eq!((instance, kind), (job.instance_id, ViolationKind::OutOfMemory));
        let state = stays_down(&mut worker, &host.podman()).await;
        assert!(matches!(state, ContainerState::Exited { code: 137, .. }), "{state:?}");
        assert_eq!(worker.run(&stop_job(1, job.instance_id)).await, Outcome::Stopped);
    });
}

#[test]
fn an_instance_that_ends_at_each_start_is_stopped_and_told() {
    on_host(|host| async move {
        let mut worker = start_with(host.podman(), host.dir(), |settings| settings.restart = strict()).await;
        let script = format!("[ -e /go ] && exit 9; {MORTAL}");
        let end = "echo > /go; kill $(/bin/busybox cat /pid)";
        let job = deployed_and_ended(&mut worker, &host, &script, end).await;
        let (instance, kind, message) = worker.violation().await;
        assert_eq!((instance, kind), (job.instance_id, ViolationKind::CrashLoop));
        assert!(message.contains("exit status 9"), "{message}");
        let state = stays_down(&mut worker, &host.podman()).await;
        assert_eq!(state, ContainerState::Exited { code: 9, out_of_memory: false });
    });
}
