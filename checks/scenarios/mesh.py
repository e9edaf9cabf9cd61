start_platform()
control_plane_1.succeed("wisehosting --json workers | jq --exit-status '.workers[0].connected and .edges[0].connected'")

with subtest("every unit is one that systemd understands"):
    for machine, units in (
        (control_plane_1, "wisehosting-control-plane.{service,socket} wisehosting-backup.{service,timer}"),
        (worker_1, "wisehosting-worker.service wisehosting-keys@worker.service"),
        (proxy_1, "wisehosting-edge.service wisehosting-edge-{http,https}.socket"),
    ):
        machine.succeed(
            f"systemctl show --property FragmentPath --value {units} | grep . |"
            " xargs systemd-analyze verify --man=no --recursive-errors=no"
        )

UNITS = {control_plane_1: "wisehosting-control-plane", worker_1: "wisehosting-worker", proxy_1: "wisehosting-edge"}
ONE_SHOT = {
    control_plane_1: ("wisehosting-backup", "wisehosting-keys@control-plane"),
    worker_1: ("wisehosting-keys@worker",),
    proxy_1: ("wisehosting-keys@proxy",),
}

with subtest("every service is locked in as its unit says"):
    for machine, unit in UNITS.items():
        for service in (unit, *ONE_SHOT[machine]):
            most = machine.succeed(f"systemctl cat {service} | sed -n 's/^X-ExposureMax=//p'").strip() or 20
            said = machine.succeed(f"systemd-analyze security --no-pager --threshold={most} {service}.service")
            print(said.splitlines()[-1])

with subtest("the tunnels are the kernel's, one to each host that is talked to"):
    for machine, peers in ((control_plane_1, 2), (worker_1, 2), (proxy_1, 2)):
        machine.succeed("ip -details link show wh0 | grep wireguard")
        machine.wait_until_succeeds(
            f"[[ $(wg show wh0 latest-handshakes | grep --count --invert-match '\t0$') == {peers} ]]"
        )

with subtest("what is for the mesh is closed outside of it"):
    worker_1.succeed("curl --silent --max-time 60 http://10.50.0.1:8081/")
    worker_1.fail("curl --silent --max-time 60 http://control-plane-1:8081/")

with subtest("a cable that was out is noticed, and forgotten when it is in again"):
    worker_1.block()
    wait_for_agent("workers", "worker-1", connected=False)
    worker_1.unblock()
    wait_for_agent("workers", "worker-1")

with subtest("a program that hangs is started anew"):
    for machine, unit in UNITS.items():
        machine.succeed(f"systemctl kill --signal STOP {unit}.service")
    # It takes a minute, which is enough for what all scenarios need.
    prepare_worker(worker_1)
    for machine, unit in UNITS.items():
        machine.wait_until_succeeds(f"[[ $(systemctl show --property NRestarts --value {unit}) -gt 0 ]]")
        machine.wait_for_unit(f"{unit}.service")
    wait_for_agent("workers", "worker-1")
    wait_for_agent("edges", "proxy-1")
