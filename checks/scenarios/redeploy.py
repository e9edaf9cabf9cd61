VISITORS = {"keeping": "", "reconnecting": "--header 'Connection: close'"}


def count(visitor):
    return int(control_plane_1.succeed(f"grep --count . /run/visitor-{visitor} || true"))


start_platform()
prepare_worker(worker_1)
deploy("busy", "1")
wait_until_served("busy", "1")

with subtest("no request fails while versions follow each other"):
    for visitor, options in VISITORS.items():
        control_plane_1.succeed(
            f"rm --force /run/visitor-{visitor};"
            f" systemd-run --quiet --unit visitor-{visitor} --property StandardError=file:/run/visitor-{visitor}"
            f" $(command -v curl) --fail --fail-early --silent --show-error --output /dev/null --rate 5/s {options}"
            f" --write-out '%{{stderr}}%{{http_code}}\\n' --header 'Host: busy.{PUBLIC_DOMAIN}' 'http://proxy-1/?[1-1000000]'"
        )
        control_plane_1.wait_for_file(f"/run/visitor-{visitor}")
    deploy("busy", "2")
    wait_until_served("busy", "2")
    for visitor in VISITORS:
        before = count(visitor)
        control_plane_1.wait_until_succeeds(f"[[ $(grep --count . /run/visitor-{visitor}) -gt {before} ]]")
        # curl ends at the first request that fails.
        control_plane_1.succeed(
            f"systemctl is-active visitor-{visitor} || {{ systemctl status visitor-{visitor}; false; }}"
        )
        control_plane_1.succeed(f"systemctl stop visitor-{visitor}")
        control_plane_1.fail(f"head --lines=-1 /run/visitor-{visitor} | grep --invert-match '^200$'")
        print(f"{visitor}: {count(visitor)} requests")

with subtest("the old version's container is gone"):
    worker_1.wait_until_succeeds("[[ $(podman ps --quiet | wc --lines) == 1 ]]")

control_plane_1.succeed("wisehosting apps delete busy")
worker_1.wait_until_fails("podman ps --quiet | grep .")
