start_platform()
version = steady()

with subtest("a control plane that is away stops nothing"):
    # Of the platform nothing may be lost; the repositories are only this scenario's.
    control_plane_1.succeed("sync --file-system /srv/git")
    control_plane_1.crash()
    worker_1.succeed(serves("steady", version))
    proxy_1.succeed("systemctl restart wisehosting-edge")
    worker_1.wait_until_succeeds(serves("steady", version))
    worker_1.succeed("systemctl restart wisehosting-worker")
    worker_1.succeed("podman kill $(podman ps --quiet)")
    worker_1.wait_until_succeeds(serves("steady", version))

with subtest("when it is back, everything goes on"):
    start_platform()
    deploy("steady", version + 1)
    wait_until_served("steady", version + 1)
