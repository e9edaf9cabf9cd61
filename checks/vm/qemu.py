"""One QEMU process: its command line, its start, its monitor and its end."""

import contextlib
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from errors import MachineError
from image import Base

# Emulation works everywhere. Where nested virtualisation works too, `kvm` is ten times as fast.
ACCELERATOR = os.environ.get("WISEHOSTING_VM_ACCELERATOR", "tcg,thread=multi,tb-size=192")


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
            f" systemd.hostname={self.name} machine.address={self.address}/24"
            + "".join(f" systemd.mask={unit}" for unit in self.masked)
        )
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-nographic", "-machine", "q35,hpet=off"),
            *("-accel", ACCELERATOR, "-cpu", "max", "-smp", "1", "-m", str(self.memory_mib)),
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

    def __init__(self, hardware: Hardware, folder: Path) -> None:
        self.folder = folder
        for name in ("control", "monitor"):
            (folder / name).unlink(missing_ok=True)
        with (folder / "qemu.log").open("ab") as log:
            # In a group of its own: an interrupt of the terminal reaches this program only.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "nice", *hardware.arguments(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

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

    def monitor(self, command: str, **arguments: object) -> None:
        """Gives QEMU a command."""
        with self.connect("monitor", time.monotonic() + 60) as connection, connection.makefile("rw") as lines:
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise MachineError(f"QEMU refuses {command}: {answer['error']['desc']}")
                    if "return" in answer:
                        break

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
