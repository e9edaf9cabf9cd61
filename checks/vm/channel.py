"""The way to run commands in a machine: lines over a virtio serial port, to guest/control on the other side."""

import base64
import contextlib
import time
from dataclasses import dataclass

from errors import MachineError
from qemu import Qemu

# The machine itself ends a command that takes too long. If not even its answer comes, something is wrong with it.
GRACE_S = 600


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    output: str
    errors: str


class Channel:
    """A connection that lasts as long as the QEMU process, over restarts of the system in it."""

    def __init__(self, qemu: Qemu) -> None:
        self._socket = qemu.connect("control", time.monotonic() + 60)
        self._received = b""
        self._number = 0
        self._is_ready = False

    def close(self) -> None:
        self._socket.close()

    def wait_ready(self, timeout: float) -> None:
        """Waits until the system in the machine listens."""
        deadline = time.monotonic() + timeout
        while not self._is_ready:
            self._is_ready = self._line(deadline) == "ready"

    def greet(self, timeout: float) -> None:
        """Instead of `wait_ready`, where the system was already listening when its machine was saved. Whether it has
        noticed that nobody was there is not known: then it says first that it is ready, else it answers only."""
        self._send(0, "true", timeout)
        deadline = time.monotonic() + timeout
        while not self._line(deadline).startswith("0 "):
            pass
        self._is_ready = True

    def expect_restart(self) -> None:
        """Everything until the next greeting is of a system that goes away."""
        self._is_ready = False

    def run(self, command: str, timeout: float) -> Result:
        """Runs a command with bash, as root."""
        self.wait_ready(timeout)
        self._number += 1
        self._send(self._number, command, timeout)
        deadline = time.monotonic() + timeout + GRACE_S
        while True:
            match self._line(deadline).split(" "):
                case [number, status, output, errors] if number == str(self._number):
                    return Result(int(status), _text(output), _text(errors))
                case ["ready"]:
                    raise MachineError("the machine has restarted")

    def _send(self, number: int, command: str, timeout: float) -> None:
        encoded = base64.b64encode(command.encode()).decode()
        self._socket.settimeout(60)
        try:
            self._socket.sendall(f"{number} {timeout:.0f} {encoded}\n".encode())
        except OSError as error:
            raise MachineError(f"the machine is off: {error}") from None

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._received:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise MachineError("the machine does not answer")
            self._socket.settimeout(min(remaining, 5))
            with contextlib.suppress(TimeoutError):
                received = self._receive()
                if not received:
                    raise MachineError("the machine is off")
                self._received += received
        line, self._received = self._received.split(b"\n", 1)
        return line.decode()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except ConnectionResetError:
            return b""


def _text(field: str) -> str:
    return base64.b64decode(field.removeprefix(".")).decode(errors="replace")
