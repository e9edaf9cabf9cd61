UNITS = {control_plane_1: "wisehosting-control-plane", worker_1: "wisehosting-worker", proxy_1: "wisehosting-edge"}
KEPT = "podman ps --quiet; sha256sum /var/lib/wisehosting-keys/*"

start_platform()
version = steady()

with subtest("programs are replaced, host by host, and no request is lost"):
    before = worker_1.succeed(KEPT)
    start_visitor("steady", "upgrade")
    for machine, unit in UNITS.items():
        old = machine.succeed(f"systemctl show --property InvocationID --value {unit}").strip()
        machine.succeed(
            "install-programs",
            "systemctl daemon-reload",
            "systemctl restart 'wisehosting-keys@*'",
            f"systemctl restart {unit}",
        )
        machine.wait_for_unit(f"{unit}.service")
        # What runs is what was installed, and not the file that was there before.
        machine.succeed(
            f"[[ $(systemctl show --property InvocationID --value {unit}) != {old} ]]",
            f"[[ $(readlink /proc/$(systemctl show --property MainPID --value {unit})/exe) != *deleted* ]]",
        )
    start_platform()
    end_visitor("upgrade")

with subtest("containers and keys are the same, and work goes on"):
    assert worker_1.succeed(KEPT) == before
    deploy("steady", version + 1)
    wait_until_served("steady", version + 1)
