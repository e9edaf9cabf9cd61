start_platform()
prepare_worker(worker_1)
deploy("fallen", "1")
wait_until_served("fallen", "1")

with subtest("a worker that has crashed is noticed"):
    worker_1.crash()
    wait_for_agent("workers", "worker-1", connected=False)
    control_plane_1.fail(request("fallen"))

with subtest("it comes back with its apps, and takes new work"):
    worker_1.start(allow_reboot=True)
    wait_for_agent("workers", "worker-1")
    wait_until_served("fallen", "1")
    deploy("fallen", "2")
    wait_until_served("fallen", "2")

control_plane_1.succeed("wisehosting delete fallen")
