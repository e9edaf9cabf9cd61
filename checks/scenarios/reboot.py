start_platform()
version = steady()

for machine in (proxy_1, control_plane_1, worker_1):
    with subtest(f"{machine.name} restarts, and everything is as it was"):
        machine.reboot()
        start_platform()
        wait_until_served("steady", version)
