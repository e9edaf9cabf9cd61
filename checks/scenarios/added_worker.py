def worker(name):
    """The command that prints what the control plane says of a worker; nothing if it does not know it."""
    return f"{ask('workers')} | jq '.workers[] | select(.name == \"{name}\")'"


def wait_for_instances(name, count):
    """Waits until a worker has so many instances of apps for the control plane."""
    control_plane_1.wait_until_succeeds(f"{worker(name)} | jq --exit-status '.instances == {count}'")


def deploy_to_worker_2(version):
    """Deploys an app while worker-1 takes none: else the one that is less used at the moment would get it."""
    control_plane_1.succeed(f"{CONTROL_PLANE} worker drain --name worker-1")
    deploy("newer", version)
    wait_until_served("newer", version)
    wait_for_instances("worker-1", 0)
    wait_for_instances("worker-2", 2)
    control_plane_1.succeed(f"{CONTROL_PLANE} worker resume --name worker-1")


def declare(nodes, *hosts):
    for host in hosts:
        host.succeed(f"declare-nodes {nodes}")
    start_platform()


start_platform()
version = steady()
prepare_worker(worker_2)

with subtest("nobody knows a worker that is not declared"):
    worker_2.wait_for_unit("wisehosting-worker.service")
    worker_2.fail("curl --silent --max-time 10 http://10.50.0.1:8081/")
    control_plane_1.fail(f"{worker('worker-2')} | grep .")

with subtest("declaring it is all: it connects, and takes the next app"):
    declare("all", worker_2, proxy_1, control_plane_1)
    wait_for_agent("workers", "worker-2")
    deploy_to_worker_2("1")
    control_plane_1.succeed(serves("steady", version))

with subtest("a worker that is drained is empty soon, and no request is lost"):
    start_visitor("newer", "drain")
    control_plane_1.succeed(f"{CONTROL_PLANE} worker drain --name worker-2")
    wait_for_instances("worker-2", 0)
    wait_for_instances("worker-1", 2)
    worker_2.wait_until_fails("podman ps --quiet | grep .")
    end_visitor("drain")

with subtest("it takes apps again when it is resumed"):
    control_plane_1.succeed(f"{CONTROL_PLANE} worker resume --name worker-2")
    deploy_to_worker_2("2")

with subtest("one that is not declared any more is drained before it is forgotten"):
    start_visitor("newer", "removal")
    declare("without-worker-2", control_plane_1)
    control_plane_1.wait_until_fails(f"{worker('worker-2')} | grep .")
    wait_for_instances("worker-1", 2)
    declare("without-worker-2", proxy_1, worker_2)
    end_visitor("removal")
    control_plane_1.succeed(serves("newer", "2"), serves("steady", version))

control_plane_1.succeed("wisehosting delete newer")
worker_2.succeed("podman rm --all --force")
