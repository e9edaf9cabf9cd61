start_platform()
prepare_worker(worker_1)
deploy("calm", "1")
wait_until_served("calm", "1")

with subtest("a control plane that is away stops nothing"):
    control_plane_1.crash()
    worker_1.succeed(serves("calm", "1"))
    proxy_1.succeed("systemctl restart wisehosting-edge")
    worker_1.wait_until_succeeds(serves("calm", "1"))
    worker_1.succeed("systemctl restart wisehosting-worker")
    worker_1.succeed("podman kill $(podman ps --quiet)")
    worker_1.wait_until_succeeds(serves("calm", "1"))

with subtest("when it is back, everything goes on"):
    start_platform()
    deploy("calm", "2")
    wait_until_served("calm", "2")

control_plane_1.succeed("wisehosting delete calm")
