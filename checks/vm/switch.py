"""An Ethernet switch between the machines: a unix socket that QEMU's stream back ends connect to.

Nothing of the host's network is used. A frame on the socket is its length, four bytes, then the frame.
"""

import asyncio
import contextlib
import threading
from pathlib import Path

# A machine that does not read any more loses frames, as on any wire; it holds up nobody.
WAITING_BYTES_MAX = 4 << 20


class Switch:
    """Forwards frames between all who are connected, until the program ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ports: dict[asyncio.StreamWriter, set[bytes]] = {}
        self._listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), name="switch", daemon=True).start()
        self._listening.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._port, self.path)
        self._listening.set()
        await server.serve_forever()

    async def _port(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ports[writer] = set()
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    length = await reader.readexactly(4)
                    frame = await reader.readexactly(int.from_bytes(length, "big"))
                    self._forward(writer, length + frame)
        finally:
            del self._ports[writer]
            writer.close()

    def _forward(self, source: asyncio.StreamWriter, frame: bytes) -> None:
        to, sender = frame[4:10], frame[10:16]
        for known in self._ports.values():
            known.discard(sender)
        self._ports[source].add(sender)
        owners = [port for port, known in self._ports.items() if to in known]
        for port in owners or self._ports:
            if port is not source and port.transport.get_write_buffer_size() < WAITING_BYTES_MAX:
                port.write(frame)
