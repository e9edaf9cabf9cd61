VISITORS = {"keeping": "", "reconnecting": "--header 'Connection: close'"}

start_platform()
prepare_worker(worker_1)
deploy("busy", "1")
wait_until_served("busy", "1")

with subtest("no request fails while versions follow each other"):
    for visitor, options in VISITORS.items():
        start_visitor("busy", visitor, options)
    deploy("busy", "2")
    wait_until_served("busy", "2")
    for visitor in VISITORS:
        end_visitor(visitor)

with subtest("the old version's container is gone"):
    worker_1.wait_until_succeeds("[[ $(podman ps --quiet | wc --lines) == 1 ]]")

control_plane_1.succeed("wisehosting delete busy")
worker_1.wait_until_fails("podman ps --quiet | grep .")
