start_platform()
version = steady()

with subtest("a worker that has crashed is noticed"):
    worker_1.crash()
    wait_for_agent("workers", "worker-1", connected=False)
    control_plane_1.fail(request("steady"))

with subtest("it comes back with its apps, and takes new work"):
    worker_1.start(allow_reboot=True)
    wait_for_agent("workers", "worker-1")
    wait_until_served("steady", version)
    deploy("steady", version + 1)
    wait_until_served("steady", version + 1)
