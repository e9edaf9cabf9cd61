"""The machines' initrd: a busybox, the modules of a virtio disk, and a script that mounts it.

Debian's own finds out on what machine it runs, which takes half a minute where that is emulated.
"""

import os
import stat
from pathlib import Path

NEEDED = ("virtio_pci", "virtio_blk")
INIT = """\
#!/bin/busybox sh
for module in /modules/*; do busybox insmod $module; done
busybox mount -t devtmpfs none /dev
busybox mount -t ext4 /dev/vda /root
busybox mount --move /dev /root/dev
exec busybox switch_root /root /sbin/init
"""


def archive(root: Path) -> bytes:
    """The initrd of the kernel whose modules are in this root, as cpio's "newc" format."""
    entries = [_entry(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "modules", "root")]
    entries.append(_entry("bin/busybox", stat.S_IFREG | 0o755, (root / "bin/busybox").read_bytes()))
    entries.append(_entry("init", stat.S_IFREG | 0o755, INIT.encode()))
    for number, module in enumerate(_modules(root)):
        entries.append(_entry(f"modules/{number:02}", stat.S_IFREG | 0o644, module.read_bytes()))
    return b"".join(entries) + _entry("TRAILER!!!", 0, b"")


def _modules(root: Path) -> list[Path]:
    """The needed ones and those that they need, in the order in which they can be loaded."""
    [index] = root.glob("usr/lib/modules/*/modules.dep")
    lines = (line.partition(":") for line in index.read_text().splitlines())
    needs = {path: others.split() for path, _, others in lines}
    order: list[str] = []
    for name in NEEDED:
        [path] = (path for path in needs if Path(path).name.partition(".")[0] == name)
        # Each line names what must be loaded last first.
        order += [module for module in (*reversed(needs[path]), path) if module not in order]
    return [index.parent / module for module in order]


def _entry(name: str, mode: int, content: bytes) -> bytes:
    encoded = os.fsencode(name) + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    return _padded(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
