"""The machines of a run: made, started, ended. Nothing of them is left behind but their logs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import image
from errors import MachineError
from machine import Machine
from qemu import Hardware
from switch import Switch

# Name, last part of the address, memory in MiB. hosts/ has the same.
HOSTS = (
    ("control-plane-1", 1, 768),
    ("worker-1", 11, 1024),
    ("worker-2", 12, 1024),
    ("proxy-1", 30, 512),
)
# All machines have one disk to begin with. What a role does not need is as good as not installed.
MASKED = {
    "control-plane": ("podman.socket", "podman.service", "podman-restart.service", "podman-auto-update.timer"),
    "worker": ("postgresql.service",),
    "proxy": ("postgresql.service", "podman.socket", "podman.service", "podman-restart.service"),
}
LAST_WORDS = "systemctl --failed --no-legend; journalctl --boot --unit 'wisehosting*' --lines 40 --no-pager"


class World:
    """All machines. Leaving it pulls every plug."""

    def __init__(self, state: Path, programs: Path, log: Callable[[str], None]) -> None:
        hosts = "127.0.0.1 localhost\n" + "".join(f"198.51.100.{number} {name}\n" for name, number, _ in HOSTS)
        log("preparing the disks")
        base = image.base(state, hosts)
        self.folder = state / "run"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        payload = self.folder / "payload"
        image.payload(payload, programs)
        switch = Switch(self.folder / "switch")
        self.machines: list[Machine] = []
        for name, number, memory_mib in HOSTS:
            folder = self.folder / name
            folder.mkdir()
            image.overlay(folder / "disk", base.disk)
            masked = MASKED[name.rpartition("-")[0]]
            hardware = Hardware(name, number, memory_mib, masked, folder / "disk", payload, base, switch.path)
            self.machines.append(Machine(hardware, folder, log))

    def start(self) -> None:
        for machine in self.machines:
            machine.start()

    def close(self) -> None:
        for machine in self.machines:
            machine.crash()
            (self.folder / machine.name / "disk").unlink(missing_ok=True)
        (self.folder / "payload").unlink(missing_ok=True)

    def last_words(self) -> str:
        """What the machines that are up say about themselves."""
        words = []
        for machine in filter(Machine.is_up, self.machines):
            try:
                words.append(f"--- {machine.name}\n{machine.execute(LAST_WORDS, timeout=120)[1]}")
            except MachineError as error:
                words.append(f"--- {machine.name}: {error}")
        return "\n".join(words)
