"""The machines of a run: made, started, ended. Nothing of them is left behind but their logs."""

import hashlib
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import image
import qemu
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


def hosts() -> str:
    """The /etc/hosts of the machines."""
    return "127.0.0.1 localhost\n" + "".join(f"198.51.100.{number} {name}\n" for name, number, _ in HOSTS)


class World:
    """All machines. Leaving it pulls every plug."""

    def __init__(self, state: Path, programs: Path, log: Callable[[str], None]) -> None:
        log("preparing the disks")
        base = image.base(state, hosts())
        self.folder = state / "run"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        payload = self.folder / "payload"
        image.payload(payload, programs)
        switch = Switch(self.folder / "switch")
        self.machines: list[Machine] = []
        self._saved = base.disk.parent / f"booted-{_hardware_digest()}"
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

    def boot(self) -> None:
        """Starts blank machines. They are kept as they are then, and the next run goes on from there."""
        if self._saved.exists():
            for machine in self.machines:
                machine.resume(self._saved / machine.name)
            for machine in self.machines:
                machine.wake()
            return
        self.start()
        new = self._saved.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        for machine in self.machines:
            machine.execute("systemctl is-system-running --wait")
            machine.save(new / machine.name)
        for old in self._saved.parent.glob("booted-*"):
            if old != new:
                shutil.rmtree(old)
        new.rename(self._saved)

    def close(self) -> None:
        for machine in self.machines:
            machine.crash()
            (self.folder / machine.name / "disk").unlink(missing_ok=True)
        (self.folder / "payload").unlink(missing_ok=True)

    def processor_s(self) -> float:
        """Processor time of the host that all machines have taken, those before a loss of power too."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + sum(machine.processor_s() for machine in self.machines)

    def last_words(self) -> str:
        """What the machines that are up say about themselves."""
        words = []
        for machine in filter(Machine.is_up, self.machines):
            try:
                words.append(f"--- {machine.name}\n{machine.execute(LAST_WORDS, timeout=120)[1]}")
            except MachineError as error:
                words.append(f"--- {machine.name}: {error}")
        return "\n".join(words)


def _hardware_digest() -> str:
    """Of all that a saved machine and the one that goes on in its place must have in common, beside their disk."""
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True).stdout
    sources = b"".join(Path(file).read_bytes() for file in (qemu.__file__, __file__))
    return hashlib.sha256(version + qemu.ACCELERATOR.encode() + sources).hexdigest()[:16]
