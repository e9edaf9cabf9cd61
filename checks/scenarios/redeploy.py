VISITORS = {"keeping": "", "reconnecting": "--header 'Connection: close'"}

start_platform()
version = steady()

with subtest("no request fails while versions follow each other"):
    for visitor, options in VISITORS.items():
        start_visitor("steady", visitor, options)
    deploy("steady", version + 1)
    wait_until_served("steady", version + 1)
    for visitor in VISITORS:
        end_visitor(visitor)

with subtest("the old version's container is gone"):
    worker_1.wait_until_succeeds(f"[[ $({containers('steady')} | wc --lines) == 1 ]]")
