"""One QEMU process: its command line, its start, its monitor and its end."""

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from errors import MachineError
from image import Base

# Emulation works everywhere. Where nested virtualisation works too, `kvm` is ten times as fast.
ACCELERATOR = os.environ.get("WISEHOSTING_VM_ACCELERATOR", "tcg,thread=multi,tb-size=256")
# All that can be emulated but what makes every address or every entry into the kernel dearer.
CPU = "max,la57=off,smap=off,smep=off,umip=off,pku=off"


@dataclass(frozen=True)
class Hardware:
    """What a machine is made of. The number is the last part of its addresses."""

    name: str
    number: int
    memory_mib: int
    # Units that do not start.
    masked: tuple[str, ...]
    disk: Path
    payload: Path
    base: Base
    switch: Path

    @property
    def address(self) -> str:
        """On the network that the machines share; the documentation's own."""
        return f"198.51.100.{self.number}"

    def arguments(self, folder: Path) -> list[str]:
        """QEMU's command line. Its sockets are in the folder."""
        kernel = (
            "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 mitigations=off random.trust_cpu=on"
            # An emulated timer is late on a busy host: that is no fault of the board or the kernel.
            " no_timer_check rcupdate.rcu_cpu_stall_suppress=1 nowatchdog"
            # Emulation translates code once for each address that it is at, so a library should always be at the same.
            " norandmaps"
            # What a hardened kernel does at each allocation and call costs most where it is emulated.
            " init_on_alloc=0 apparmor=0 audit=0"
            f" systemd.hostname={self.name} machine.address={self.address}/24"
            + "".join(f" systemd.mask={unit}" for unit in self.masked)
        )
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-nographic", "-machine", "q35,hpet=off"),
            *("-accel", ACCELERATOR, "-cpu", CPU, "-smp", "1", "-m", str(self.memory_mib)),
            *("-kernel", str(self.base.kernel), "-initrd", str(self.base.initrd), "-append", kernel),
            # Unsafe only for a crash of the host: what a killed machine has written is there again.
            *("-drive", f"file={self.disk},if=virtio,format=qcow2,cache=unsafe,discard=unmap"),
            *("-drive", f"file={self.payload},if=virtio,format=raw,readonly=on"),
            *("-netdev", f"stream,id=net0,server=off,addr.type=unix,addr.path={self.switch}"),
            *("-device", f"virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:{self.number:02x},romfile="),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=control,path={folder}/control,server=on,wait=off"),
            *("-device", "virtserialport,chardev=control,name=control"),
            *("-chardev", f"file,id=serial,path={folder}/serial.log,append=on", "-serial", "chardev:serial"),
            *("-qmp", f"unix:{folder}/monitor,server=on,wait=off"),
        ]


class Qemu:
    """A running machine. It ends with this program, whatever becomes of it."""

    def __init__(self, hardware: Hardware, folder: Path, memory: Path | None = None) -> None:
        """`memory`: what `save` has written, for a machine that goes on from there."""
        self.folder = folder
        resume = ["-incoming", f"exec:cat {shlex.quote(str(memory))}"] if memory else []
        for name in ("control", "monitor"):
            (folder / name).unlink(missing_ok=True)
        with (folder / "qemu.log").open("ab") as log:
            # In a group of its own: an interrupt of the terminal reaches this program only. It ends with the thread
            # that starts it, so that must be the main one.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *hardware.arguments(folder), *resume],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def processor_s(self) -> float:
        """Processor time that it has taken, which says more than a clock does on a busy host."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_running(self) -> bool:
        return self._process.poll() is None

    def connect(self, name: str, deadline: float) -> socket.socket:
        """A connection to one of its sockets, which it opens when it starts."""
        while True:
            connection = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(str(self.folder / name))
                return connection
            connection.close()
            if not self.is_running() or time.monotonic() > deadline:
                raise MachineError(f"QEMU does not run:\n{(self.folder / 'qemu.log').read_text()}")
            time.sleep(0.05)

    def save(self, memory: Path, disk: Path, copy: Path) -> None:
        """Writes what it remembers and what its disk holds to files, while it stands still."""
        self.monitor("stop")
        self.monitor("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.monitor("migrate", uri=f"exec:cat >{shlex.quote(str(memory))}")
        while (status := self.monitor("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled"):
                raise MachineError(f"QEMU does not save the machine: {status}")
            time.sleep(0.1)
        shutil.copy(disk, copy)
        self.monitor("cont")

    def resume(self) -> None:
        """Lets it go on once it remembers all."""
        while self.monitor("query-status").get("status") == "inmigrate":
            time.sleep(0.1)
        self.monitor("cont")

    def monitor(self, command: str, **arguments: object) -> dict[str, object]:
        """Gives QEMU a command; what it answers."""
        value: dict[str, object] = {}
        with self.connect("monitor", time.monotonic() + 60) as connection, connection.makefile("rw") as lines:
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise MachineError(f"QEMU refuses {command}: {answer['error']['desc']}")
                    if "return" in answer:
                        value = answer["return"]
                        break
        return value

    def wait(self, timeout: float) -> None:
        """Waits until the machine has switched itself off."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise MachineError(f"the machine is still on after {timeout:.0f} s") from None

    def kill(self) -> None:
        """Pulls the plug."""
        self._process.kill()
        self._process.wait()
