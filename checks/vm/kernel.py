"""The tests of the crates that speak with the kernel, on a kernel that has all that they ask for: Debian's, with WireGuard.

The test programs are built here and run on one machine, one test after the other. A test that could not test there fails, too.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import image
import world
from machine import Machine
from qemu import Hardware
from switch import Switch

NAME = "kernel"
# Of the crates network and node.
TESTS = ("links", "wireguard", "forwarding", "shaping", "mesh_peers")
TIMEOUT_S = 3600
# What a test says that passes without having tested.
NOT_TESTED = "not tested:"


class Log(Protocol):
    """Where it is told what happens."""

    def detail(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...


def run(state: Path, log: Log) -> bool:
    """Whether all tests pass."""
    log.say("building the tests")
    programs = dict(_programs())
    base = image.base(state, world.hosts())
    folder = state / NAME
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _payload(folder / "payload", programs)
    image.overlay(folder / "disk", base.disk)
    masked = tuple(sorted({unit for units in world.MASKED.values() for unit in units}))
    switch = Switch(folder / "switch")
    hardware = Hardware(NAME, 2, 2048, masked, folder / "disk", folder / "payload", base, switch.path)
    machine = Machine(hardware, folder, log.detail)
    try:
        machine.succeed("mount /root/wisehosting && modprobe wireguard")
        return all([_passes(machine, name, log) for name in programs])
    finally:
        machine.crash()
        for disk in ("disk", "payload"):
            (folder / disk).unlink(missing_ok=True)


def _passes(machine: Machine, name: str, log: Log) -> bool:
    # What needs no kernel's WireGuard runs everywhere, and would take very long where all is emulated.
    arguments = "--test-threads=1 --nocapture --skip userspace"
    status, output = machine.execute(f"/root/wisehosting/{name} {arguments} 2>&1", TIMEOUT_S)
    passes = status == 0 and NOT_TESTED not in output
    log.detail(output)
    summary = next((line for line in output.splitlines() if line.startswith("test result")), f"status {status}")
    log.say(f"{name}: {summary}")
    if not passes:
        log.say(output)
    return passes


def _programs() -> Iterator[tuple[str, str]]:
    """Name and path of each."""
    named = [argument for test in TESTS for argument in ("--test", test)]
    command = ("cargo", "test", "--quiet", "--workspace", "--no-run", "--message-format=json", *named)
    built = subprocess.run(command, cwd=image.PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    for line in built.stdout.splitlines():
        artifact = json.loads(line)
        if artifact.get("executable") and artifact["target"]["kind"] == ["test"]:
            yield artifact["target"]["name"], artifact["executable"]


def _payload(disk: Path, programs: dict[str, str]) -> None:
    root = disk.with_suffix(".root")
    root.mkdir()
    for name, program in programs.items():
        subprocess.run(["strip", "--strip-debug", "-o", root / name, program], check=True)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, disk, "1G"], check=True)
    shutil.rmtree(root)
