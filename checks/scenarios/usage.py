# Eats its memory, in the container's first program, once it is told to.
HUNGRY = r"""
until [ -e /srv/eat ]; do sleep 1; done
exec awk 'BEGIN { s = "x"; while (1) s = s s }'
"""


def instance(of, condition):
    """The command that succeeds if this is so of what the app's one instance uses."""
    return f"wisehosting --json stats {of} | jq --exit-status '.instances[0].usage | {condition}'"


def add_program(app, name, text):
    """A program below /cgi-bin of the app's next versions."""
    control_plane_1.succeed(
        f"cd /srv/git/{app}; printf '#!/bin/sh\\necho\\n%s\\n' {shlex.quote(text)} >{name}; chmod 755 {name};"
        f" echo 'COPY {name} /srv/cgi-bin/' >>Dockerfile"
    )


start_platform()
prepare_worker(worker_1)
for app in ("greedy", "modest"):
    publish(app, "0")
add_program("greedy", "eat", "touch /srv/eat")
add_program("modest", "write", "dd if=/dev/zero of=/srv/written bs=1M count=32 conv=fsync 2>&1")
control_plane_1.succeed(
    f"cd /srv/git/greedy; sed --in-place '/^wait/d' start.sh; printf %s {shlex.quote(HUNGRY)} >>start.sh"
)

with subtest("what an instance writes to its disk is seen"):
    deploy("modest", "1")
    wait_until_served("modest", "1")
    control_plane_1.wait_until_succeeds(instance("modest", ".disk_written_bytes_per_s == 0 and .memory_bytes > 0"))
    control_plane_1.succeed(f"{request('modest')} --request-target /cgi-bin/write")
    control_plane_1.wait_until_succeeds(instance("modest", ".disk_written_bytes_per_s > 1e6"))

with subtest("an instance that uses up its memory ends alone, and the reason is told"):
    deploy("greedy", "1", "--memory 32M")
    wait_until_served("greedy", "1")
    control_plane_1.succeed(f"{request('greedy')} --request-target /cgi-bin/eat")
    control_plane_1.wait_until_succeeds(
        "wisehosting --json apps show greedy | jq --exit-status '.violation.kind == \"out_of_memory\"'"
    )
    wait_until_served("modest", "1")
    control_plane_1.succeed(
        "wisehosting --json apps show modest | jq --exit-status '.violation == null and .state == \"live\"'"
    )

with subtest("logins of repositories have a folder in memory"):
    worker_1.succeed("[[ $(stat --file-system --format %T /run/wisehosting-worker) == tmpfs ]]")
    worker_1.succeed("[[ $(stat --format %a /run/wisehosting-worker) == 700 ]]")

control_plane_1.succeed("wisehosting delete greedy", "wisehosting delete modest")
for app in ("greedy", "modest"):
    worker_1.wait_until_fails(f"{containers(app)} --all | grep .")
