start_platform()
prepare_worker(worker_1)
deploy("patient", "1")
wait_until_served("patient", "1")

for machine in (proxy_1, control_plane_1, worker_1):
    with subtest(f"{machine.name} restarts, and everything is as it was"):
        machine.reboot()
        start_platform()
        wait_until_served("patient", "1")

control_plane_1.succeed("wisehosting delete patient")
