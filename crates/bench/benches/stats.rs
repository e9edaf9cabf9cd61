//! What it costs a worker to read what its containers use, beside one look at the same containers through the engine.
//!
//! A hundred real containers, each with a control group and a link. A pass is what a worker does every ten seconds; the look is
//! what it does to see how they are, and would be an inspection of each if Podman had no list. With that look goes one at each
//! limit of traffic, and all the while each log is followed. Processor time is this process's own; what the engine works for the
//! look is not in it, only that it has to be waited for.
//!
//! Needs root. `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench stats -- [rounds]`.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant as TokioInstant, sleep_until},
};
use uuid::Uuid;
use wisehosting_bench::{report::Report, sample::Samples};
use wisehosting_containers::{
    Build, BuildBounds, ContainerSpec, Engine, LogPosition, Network, Podman,
    testing::{ADDRESS, Host, on_host, write_app},
};
use wisehosting_domain::{id::InstanceId, limits::Limits};
use wisehosting_network::{Netlink, NetworkNamespace, TokenBucket, shape};
use wisehosting_worker::{instances::Running, usage::UsageReader};

const CONTAINERS: u16 = 100;
const LABEL: &str = "bench.stats";
const NETWORK: &str = "bench-stats";
/// Of one processor, if a pass is made every ten seconds.
const GOAL: Duration = Duration::from_millis(50);
/// How long the followers of the logs are watched.
const FOLLOWED: Duration = Duration::from_secs(5);

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20);
    on_host(move |host| async move { measure(&host, rounds).await });
}

async fn measure(host: &Host, rounds: usize) {
    let podman = host.podman();
    let running = start(&podman, host).await;
    let mut reader = UsageReader::default();
    let none = HashMap::new();
    let (first, first_cpu) = pass(&mut reader, &running, &none).await;
    let (mut wall, mut cpu) = (Samples::new(), Samples::new());
    let (mut look, mut inspections) = (Samples::new(), Samples::new());
    for _ in 0..rounds {
        let (pass_wall, pass_cpu) = pass(&mut reader, &running, &none).await;
        wall.push(pass_wall.as_secs_f64());
        cpu.push(pass_cpu.as_secs_f64());
        let begin = Instant::now();
        assert_eq!(podman.containers(LABEL).await.expect("a list").known().len(), running.len());
        look.push(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        for one in &running {
            podman.container(&one.container).await.expect("the container");
        }
        inspections.push(begin.elapsed().as_secs_f64());
    }
    let begin = Instant::now();
    assert_eq!(podman.written_bytes(LABEL).await.expect("counted").len(), running.len());
    let count = begin.elapsed();
    let (set, _) = limit_traffic(&running).await;
    let (seen, seen_cpu) = limit_traffic(&running).await;
    let followed_cpu = follow_logs(&podman, &running).await;

    let mut report =
        Report::new(&format!("stats: {CONTAINERS} containers, median of {rounds} rounds in turns"));
    let reached = cpu.median() <= GOAL.as_secs_f64();
    let each = cpu.median() * 1e6 / f64::from(CONTAINERS);
    let figure = format!("{:.1} ms ({each:.0} µs a container)", cpu.median() * 1e3);
    report.goal("processor time of a pass", figure, "<= 50 ms", reached);
    report.figure("time of a pass", format!("{:.1} ms", wall.median() * 1e3));
    report.figure(
        "first pass, which finds everything: processor time, time",
        format!("{:.1} ms, {:.1} ms", first_cpu.as_secs_f64() * 1e3, first.as_secs_f64() * 1e3),
    );
    report.figure(
        "one look through the engine / a pass",
        format!("{:.0} ({:.0} ms)", look.median_ratio(&wall), look.median() * 1e3),
    );
    report.figure(
        "an inspection of each / one look",
        format!("{:.0} ({:.0} ms)", inspections.median_ratio(&look), inspections.median() * 1e3),
    );
    report.figure("count of what they have written", format!("{:.0} ms", count.as_secs_f64() * 1e3));
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    report.figure("limits of traffic, of all: set", format!("{:.0} ms", ms(set)));
    report.figure(
        "limits of traffic, of all: looked at, processor time",
        format!("{:.0} ms, {:.0} ms", ms(seen), ms(seen_cpu)),
    );
    report.figure(
        "logs of all followed while nobody writes: processor time a second",
        format!("{:.2} ms", ms(followed_cpu) / FOLLOWED.as_secs_f64()),
    );
    print!("{report}");
}

/// Sees to it that each container's traffic is limited: how long that takes, and the processor time of this process.
async fn limit_traffic(running: &[Running]) -> (Duration, Duration) {
    let (begin, before) = (Instant::now(), processor_time());
    for one in running {
        let path = one.network_namespace.as_ref().expect("a container has a network namespace");
        let namespace = NetworkNamespace::at_path(path).expect("its namespace");
        let here = Netlink::here().expect("netlink");
        shape(&namespace, &here, Some(TokenBucket::for_rate(10_000_000))).await.expect("its limit");
    }
    (begin.elapsed(), processor_time().saturating_sub(before))
}

/// Follows the log of each container: the processor time of this process in [`FOLLOWED`].
async fn follow_logs(podman: &Podman, running: &[Running]) -> Duration {
    let mut followers = JoinSet::new();
    for one in running {
        let (podman, container) = (podman.clone(), one.container.clone());
        followers.spawn(async move {
            let (batches, mut received) = mpsc::channel(1);
            let follow = podman.log(&container, LogPosition::default(), true, batches);
            let (followed, ()) = tokio::join!(follow, async { while received.recv().await.is_some() {} });
            followed.expect("its log");
        });
    }
    // All have found the end of their file by then.
    let begin = TokioInstant::now() + Duration::from_secs(2);
    sleep_until(begin).await;
    let before = processor_time();
    sleep_until(begin + FOLLOWED).await;
    assert_eq!(followers.len(), running.len(), "each is followed");
    assert!(followers.try_join_next().is_none(), "and goes on to be");
    processor_time().saturating_sub(before)
}

/// How long a pass takes, and the processor time of this process in it.
async fn pass(
    reader: &mut UsageReader,
    running: &[Running],
    written: &HashMap<wisehosting_containers::ContainerId, u64>,
) -> (Duration, Duration) {
    let (begin, before) = (Instant::now(), processor_time());
    let reading = reader.read(running, written).await;
    let used = processor_time().saturating_sub(before);
    let wall = begin.elapsed();
    assert_eq!(reading.instances.len(), running.len());
    assert!(reading.instances.iter().all(|instance| instance.usage.cpu_us > 0));
    (wall, used)
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("this process's own use");
    let time = usage.user_time() + usage.system_time();
    Duration::from_micros(time.num_microseconds().unsigned_abs())
}

/// Starts the containers.
async fn start(podman: &Podman, host: &Host) -> Vec<Running> {
    let network = Network { name: NETWORK.to_owned(), subnet: "10.91.0.0/16".to_owned() };
    podman.ensure_network(&network).await.expect("a network");
    let context = host.dir().join("app");
    write_app(&context, "", "exec /bin/busybox sleep 100000");
    let build = Build {
        name: "bench-stats".to_owned(),
        context,
        dockerfile: "Dockerfile".into(),
        network: NETWORK.to_owned(),
        bounds: BuildBounds {
            memory_bytes: 256 * 1024 * 1024,
            cpu_millis: 1_000,
            processes_max: 100,
            at_a_time: 2,
        },
        tag: "localhost/bench-stats:1".to_owned(),
        labels: BTreeMap::new(),
    };
    let (log, _) = mpsc::channel(1);
    let image = podman.build(&build, log).await.expect("an image").id;
    let mut running = Vec::new();
    for number in 0..CONTAINERS {
        let spec = ContainerSpec {
            name: format!("bench-{number}"),
            image: image.clone(),
            limits: Limits::new(16 * 1024 * 1024, 100, 16).expect("limits"),
            labels: BTreeMap::from([(LABEL.to_owned(), "yes".to_owned())]),
            env: BTreeMap::new(),
            network: NETWORK.to_owned(),
            read_only: false,
            published: SocketAddr::from((ADDRESS, 20_000 + number)),
            port: 8080,
        };
        let id = podman.run(&spec).await.expect("a container");
        let container = podman.container(&id).await.expect("the container");
        let instance = InstanceId(Uuid::from_u128(number.into()));
        let network_namespace = container.network_namespace;
        running.push(Running { instance, container: id, network_namespace, disk_limited: false });
    }
    running
}
