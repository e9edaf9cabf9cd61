PODMANS_FOLDER = "/var/lib/containers"
LIMIT_MIB = 32


def restart_worker_on(prepare):
    """Takes Podman's folder away from under a worker that has no apps."""
    worker_1.succeed(
        "systemctl stop wisehosting-worker podman.socket podman.service",
        prepare,
        "systemctl start podman.socket wisehosting-worker",
    )
    wait_for_agent("workers", "worker-1")


def holds_limits(is_so):
    """The command that succeeds if the worker says so of its disk."""
    return (
        f"{ask('workers')} | jq --exit-status"
        f" '.workers[] | select(.name == \"worker-1\") | .usage.disk_limits_held == {is_so}'"
    )


start_platform()
end_steady()

with subtest("a disk without quotas holds no limits"):
    control_plane_1.wait_until_succeeds(holds_limits("false"))

with subtest("XFS with project quotas does"):
    restart_worker_on(
        f"truncate --size 3G /srv/disk && mkfs.xfs -q /srv/disk && mount -o loop,prjquota /srv/disk {PODMANS_FOLDER}"
    )
    control_plane_1.wait_until_succeeds(holds_limits("true"))

prepare_worker(worker_1)
publish("full", "0")
control_plane_1.succeed(
    "cd /srv/git/full;"
    " printf '#!/bin/sh\\necho; dd if=/dev/zero of=/srv/filled bs=64k count=1000 2>&1; du -m /srv/filled\\n' >fill;"
    " chmod 755 fill; echo 'COPY fill /srv/cgi-bin/' >>Dockerfile",
)

with subtest("an app cannot write more than its limit, and is stopped when it tries"):
    deploy("full", "1", f"--disk {LIMIT_MIB}M")
    wait_until_served("full", "1")
    said = control_plane_1.succeed(f"{request('full')} --request-target /cgi-bin/fill")
    assert "No space left on device" in said, said
    assert LIMIT_MIB / 2 < int(said.split()[-2]) <= LIMIT_MIB, said
    control_plane_1.wait_until_succeeds(
        "wisehosting --json apps show full | jq --exit-status '.violation.kind == \"disk_quota\"'"
    )
    worker_1.wait_until_succeeds("[[ -z $(podman ps --quiet) ]]")

with subtest("it serves again with a higher limit"):
    deploy("full", "2", "--disk 256M")
    wait_until_served("full", "2")
    said = control_plane_1.succeed(f"{request('full')} --request-target /cgi-bin/fill")
    assert int(said.split()[-2]) > LIMIT_MIB, said

with subtest("a build that uses up its memory dies alone, in the slice of the builds"):
    repository = publish("bomb", "1")
    control_plane_1.succeed(
        "cd /srv/git/bomb; echo 'RUN awk \"BEGIN { s = \\\"x\\\"; while (1) s = s s }\"' >>Dockerfile; git add .;"
        " git -c user.name=Test -c user.email=you@example.org commit --quiet --message bomb"
    )
    worker_1.succeed("[[ $(cat /sys/fs/cgroup/wisehosting_builds.slice/cpu.weight) == 20 ]]")
    worker_1.fail("grep max /sys/fs/cgroup/wisehosting_builds.slice/memory.max")
    control_plane_1.fail(f"wisehosting deploy {repository} --name bomb >/run/bomb 2>&1")
    control_plane_1.succeed("grep 'MiB of memory that a build has' /run/bomb || { cat /run/bomb; false; }")
    wait_until_served("full", "2")
    # What builds leave behind would be a group in there.
    worker_1.succeed("[[ -z $(ls -d /sys/fs/cgroup/wisehosting_builds.slice/*/ 2>/dev/null) ]]")

control_plane_1.succeed("wisehosting delete full", "wisehosting delete bomb")
worker_1.wait_until_succeeds("[[ -z $(podman ps --all --quiet) ]]")
restart_worker_on(f"umount {PODMANS_FOLDER} && rm /srv/disk")
