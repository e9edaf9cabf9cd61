"""A machine, with the methods that the NixOS test driver gives one, as far as the scenarios use them."""

import base64
import io
import shlex
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from channel import Channel, Result
from errors import MachineError
from qemu import Hardware, Qemu

# Emulated machines on a busy host are slow. A longer wait costs nothing where what is awaited happens.
TIMEOUT_S = 900
POLL_S = 1.0
# The kernel takes 128 KiB in one argument.
COMMAND_BYTES_MAX = 64 << 10


class Machine:
    """Methods raise MachineError when what they say is not so."""

    def __init__(self, hardware: Hardware, folder: Path, log: Callable[[str], None]) -> None:
        self.name = hardware.name
        # Every command that was run, for documented.py.
        self.commands: list[str] = []
        self._hardware = hardware
        self._folder = folder
        self._log = log
        self._qemu: Qemu | None = None
        self._channel: Channel | None = None

    # --- power ---------------------------------------------------------------------------------------------------

    def start(self, allow_reboot: bool = True) -> None:
        """Switches it on, if it is off. The argument is the NixOS driver's; here every machine may be restarted."""
        del allow_reboot
        if self._qemu is None:
            self._qemu = Qemu(self._hardware, self._folder)
            self._channel = Channel(self._qemu)

    def save(self, folder: Path) -> None:
        """Keeps it as it is, for `resume`."""
        folder.mkdir(parents=True)
        self._running().save(folder / "memory", self._hardware.disk, folder / "disk")

    def resume(self, folder: Path) -> None:
        """Instead of `start`: it goes on from where it was saved, once `wake` is called."""
        shutil.copy(folder / "disk", self._hardware.disk)
        self._qemu = Qemu(self._hardware, self._folder, folder / "memory")
        self._channel = Channel(self._qemu)

    def wake(self) -> None:
        """It goes on, but for the time, of which it has missed some."""
        self._running().resume()
        self._connected().greet(TIMEOUT_S)
        self._run(f"date --set @{time.time():.3f}", TIMEOUT_S)

    def processor_s(self) -> float:
        """Processor time of the host since it was switched on."""
        return self._qemu.processor_s() if self._qemu else 0.0

    def is_up(self) -> bool:
        return self._qemu is not None

    def crash(self) -> None:
        """Pulls the plug."""
        if self._qemu is not None and self._channel is not None:
            self._channel.close()
            self._qemu.kill()
        self._qemu = self._channel = None

    def shutdown(self) -> None:
        """Switches it off as systemd does, and waits for that."""
        if self._qemu is None:
            return
        self._run("systemctl --no-block poweroff", TIMEOUT_S)
        try:
            self._qemu.wait(TIMEOUT_S)
        finally:
            self.crash()

    def reboot(self) -> None:
        """Restarts the system. What comes after waits until it is there again."""
        channel = self._connected()
        self._run("systemctl --no-block reboot", TIMEOUT_S)
        channel.expect_restart()

    def connect(self) -> None:
        """Waits until the system runs commands."""
        self._connected().wait_ready(TIMEOUT_S)

    def block(self) -> None:
        """Pulls the network cable."""
        self._running().monitor("set_link", name="nic0", up=False)

    def unblock(self) -> None:
        """Plugs it in again."""
        self._running().monitor("set_link", name="nic0", up=True)

    # --- commands ------------------------------------------------------------------------------------------------

    def execute(self, command: str, timeout: int = TIMEOUT_S) -> tuple[int, str]:
        """Runs it with bash; its status and what it printed."""
        result = self._run(command, timeout)
        return result.status, result.output

    def succeed(self, *commands: str, timeout: int = TIMEOUT_S) -> str:
        """Runs each, which must end well; what they printed."""
        output = ""
        for command in commands:
            result = self._run(command, timeout)
            if result.status != 0:
                raise MachineError(f"{self.name}: `{command}` ends with {_tell(result)}")
            output += result.output
        return output

    def fail(self, *commands: str, timeout: int = TIMEOUT_S) -> str:
        """Runs each, which must not end well; what they printed."""
        output = ""
        for command in commands:
            result = self._run(command, timeout)
            if result.status == 0:
                raise MachineError(f"{self.name}: `{command}` does not fail: {result.output}")
            output += result.output
        return output

    def wait_until_succeeds(self, command: str, timeout: int = TIMEOUT_S) -> str:
        """Runs it again and again until it ends well."""
        return self._until(command, timeout, lambda result: result.status == 0)

    def wait_until_fails(self, command: str, timeout: int = TIMEOUT_S) -> str:
        """Runs it again and again until it does not end well."""
        return self._until(command, timeout, lambda result: result.status != 0)

    def copy_from_host(self, source: str, target: str) -> None:
        """Puts a file or a folder of this host into the machine. It should be small: it goes as commands."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            tar.add(source, arcname=Path(target).name)
        text = base64.b64encode(archive.getvalue()).decode()
        parts = [text[at : at + COMMAND_BYTES_MAX] for at in range(0, len(text), COMMAND_BYTES_MAX)]
        folder = shlex.quote(str(Path(target).parent))
        self.succeed(
            *(f"printf %s {part} >>/run/copied" for part in parts),
            f"mkdir --parents {folder} && base64 --decode /run/copied | tar --extract --gzip --directory {folder}",
            "rm /run/copied",
        )

    # --- systemd and ports ---------------------------------------------------------------------------------------

    def systemctl(self, query: str) -> tuple[int, str]:
        return self.execute(f"systemctl {query}")

    def wait_for_unit(self, unit: str, timeout: int = TIMEOUT_S) -> None:
        """Waits until it is active. That it has failed is told at once, with what it said."""
        unit = shlex.quote(unit)
        state = self.wait_until_succeeds(
            f"state=$(systemctl show --property=ActiveState --value {unit}); echo $state;"
            " [[ $state == active || $state == failed ]]",
            timeout,
        ).strip()
        if state == "failed":
            said = self.execute(f"journalctl --unit {unit} --lines 40 --output short-monotonic --no-pager")[1]
            raise MachineError(f"{self.name}: {unit} has failed:\n{said}")

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: int = TIMEOUT_S) -> None:
        self.wait_until_succeeds(f": </dev/tcp/{addr}/{port}", timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: int = TIMEOUT_S) -> None:
        self.wait_until_fails(f": </dev/tcp/{addr}/{port}", timeout)

    def wait_for_file(self, path: str, timeout: int = TIMEOUT_S) -> None:
        self.wait_until_succeeds(f"test -e {shlex.quote(path)}", timeout)

    # -------------------------------------------------------------------------------------------------------------

    def _running(self) -> Qemu:
        self.start()
        assert self._qemu is not None
        return self._qemu

    def _connected(self) -> Channel:
        self.start()
        assert self._channel is not None
        return self._channel

    def _run(self, command: str, timeout: float) -> Result:
        channel = self._connected()
        self.commands.append(command)
        try:
            channel.wait_ready(TIMEOUT_S)
            begin = time.monotonic()
            result = channel.run(command, timeout)
        except MachineError as error:
            raise MachineError(f"{self.name}: `{command}`: {error}") from None
        self._log(f"{self.name}: {command}  ({time.monotonic() - begin:.1f} s, status {result.status})")
        return result

    def _until(self, command: str, timeout: float, holds: Callable[[Result], bool]) -> str:
        deadline = time.monotonic() + timeout
        while True:
            result = self._run(command, max(1.0, deadline - time.monotonic()))
            if holds(result):
                return result.output
            if time.monotonic() > deadline:
                raise MachineError(f"{self.name}: `{command}` still ends with {_tell(result)}")
            time.sleep(POLL_S)


def _tell(result: Result) -> str:
    return f"status {result.status}: {(result.output + result.errors).strip()}"


def retry(function: Callable[[bool], bool], timeout_seconds: int = TIMEOUT_S) -> None:
    """Calls the function until it is true. It is told when it is asked for the last time."""
    deadline = time.monotonic() + timeout_seconds
    while not function(time.monotonic() > deadline):
        if time.monotonic() > deadline:
            raise MachineError("what was waited for has not happened")
        time.sleep(POLL_S)
