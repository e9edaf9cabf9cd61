BYTES = 500_000
# 1mbit, and what a burst and a tolerance add to it over so many bytes.
MOST_BYTES_PER_S = 125_000 * 1.15
WAYS = {
    "download": "--request-target /large --output /dev/null",
    "upload": "--request-target /cgi-bin/count --data-binary @/run/large --output /run/counted",
}


def speed(way):
    """Bytes a second between a visitor and the app."""
    return float(control_plane_1.succeed(f"{request('narrow')} {WAYS[way]} --write-out '%{{speed_{way}}}'"))


def is_fast(_last):
    speeds = {way: speed(way) for way in WAYS}
    print(f"without a limit, bytes a second: {speeds}")
    return all(measured > 2 * MOST_BYTES_PER_S for measured in speeds.values())


def check_limit():
    for way in WAYS:
        measured = speed(way)
        print(f"{way}, bytes a second: {measured}")
        assert measured < MOST_BYTES_PER_S, (way, measured)
    assert int(control_plane_1.succeed("cat /run/counted")) == BYTES


start_platform()
prepare_worker(worker_1)
publish("narrow", "0")
control_plane_1.succeed(
    f"head --bytes={BYTES} /dev/urandom >/run/large",
    "cd /srv/git/narrow; printf '#!/bin/sh\\necho; wc -c\\n' >count; chmod 755 count;"
    " printf '%s\\n' 'COPY count /srv/cgi-bin/'"
    f" 'RUN head -c {BYTES} /dev/urandom >/srv/large' >>Dockerfile",
)

with subtest("an app without a limit has what there is"):
    deploy("narrow", "1")
    wait_until_served("narrow", "1")
    worker_1.fail("tc qdisc show | grep tbf")
    retry(is_fast)

with subtest("a limit holds in each direction"):
    deploy("narrow", "2", "--bandwidth 1mbit")
    wait_until_served("narrow", "2")
    check_limit()

with subtest("a container that is started again has its limit again"):
    worker_1.wait_until_succeeds(f"[[ $({containers('narrow')} | wc --lines) == 1 ]]")
    link = worker_1.succeed("tc qdisc show | grep tbf | cut --delimiter ' ' --fields 5")
    worker_1.succeed(f"podman kill $({containers('narrow')})")
    worker_1.wait_until_succeeds(f"tc qdisc show | grep tbf | grep --invert-match ' dev {link.strip()} '")
    wait_until_served("narrow", "2")
    check_limit()

control_plane_1.succeed("wisehosting delete narrow")
