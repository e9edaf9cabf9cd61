def instances(worker):
    """The command that prints how many containers of apps the control plane has on a worker."""
    return f"wisehosting --json workers | jq '.workers[] | select(.name == \"{worker}\").instances'"


def declare(nodes):
    for machine in (worker_2, proxy_1, control_plane_1):
        machine.succeed(f"declare-nodes {nodes}")


start_platform()
prepare_worker(worker_1)
prepare_worker(worker_2)
deploy("older", "1")
wait_until_served("older", "1")

with subtest("nobody knows a worker that is not declared"):
    worker_2.wait_for_unit("wisehosting-worker.service")
    worker_2.fail("curl --silent --max-time 10 http://10.50.0.1:8081/")
    control_plane_1.fail(f"{instances('worker-2')} | grep .")

with subtest("declaring it is all: it connects, and takes the next app"):
    declare("all")
    start_platform()
    wait_for_agent("workers", "worker-2")
    deploy("newer", "1")
    wait_until_served("newer", "1")
    control_plane_1.succeed(f"[[ $({instances('worker-2')}) == 1 ]]")
    control_plane_1.succeed(serves("older", "1"))

with subtest("an app of a worker that is removed is deployed again elsewhere"):
    declare("without-worker-2")
    start_platform()
    deploy("newer", "2")
    wait_until_served("newer", "2")
    control_plane_1.succeed(f"[[ $({instances('worker-1')}) == 2 ]]")

control_plane_1.succeed("wisehosting apps delete older", "wisehosting apps delete newer")
worker_2.succeed("podman rm --all --force")
