"""The disks of the machines: a Debian with what our programs need, kept; and one with our files, made for each run.

The Debian is blank as far as we are concerned: none of our files is in it. It is made anew when the packages, this file
or those in guest/ change.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import initrd

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent

SYSTEM = ("systemd", "systemd-sysv", "udev", "dbus", "iproute2", "kmod", "curl", "jq")
KERNEL = "linux-image-cloud-amd64"
# Unpacked and not installed, which would bring an initramfs's tools and a Python. mkfs.xfs is a scenario's.
UNPACKED = ("xfsprogs", "libinih1", "liburcu8")
# What docs/operating.md tells to install, on hosts of one role or the other.
NEEDED = (
    *(
        "postgresql",
        "git",
        "podman",
        "crun",
        "netavark",
        "aardvark-dns",
        "iptables",
        "nftables",
        "ca-certificates",
        "wireguard-tools",
    ),
    # Of a scenario: it makes the base image of its app of it, and serves the app's repository with it.
    "busybox-static",
)
SUITE = "bookworm"
DISK_SIZE = "6G"

LEFT_OUT = (
    *("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/i18n/*", "/usr/share/info/*"),
    # Postgres' compiler of queries.
    *("/usr/lib/*/libLLVM*", "/usr/lib/llvm-*"),
    *("/usr/lib/postgresql/*/lib/llvmjit*", "/usr/lib/postgresql/*/lib/bitcode/*"),
)
# In the machine's root folder, "$1", by the apt that fills it.
UNPACK = f"""\
set -eu
cd "$1/var/tmp"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends {KERNEL} | sed -n 's/^ *Depends: //p')
apt-get --quiet=2 download "$kernel" {" ".join(UNPACKED)}
for package in *.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$1"
done
rm ./*.deb
chroot "$1" depmod "${{kernel#linux-image-}}"
"""
# Debian's own chores, which would only take time.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer"),
    *("podman-auto-update.timer", "podman-auto-update.service", "dpkg-db-backup.timer"),
    *("getty@tty1.service", "serial-getty@ttyS0.service", "modprobe@drm.service"),
    *("systemd-pcrphase.service", "systemd-pcrphase-sysinit.service"),
)
PROGRAMS = ("wisehosting", "wisehosting-control-plane", "wisehosting-worker", "wisehosting-edge")


@dataclass(frozen=True)
class Base:
    """The Debian that every machine begins with. The disk is never written to."""

    disk: Path
    kernel: Path
    initrd: Path


def base(state: Path, hosts: str) -> Base:
    """The Debian, from the state folder if it is there. `hosts` is its /etc/hosts."""
    inputs = [Path(__file__), Path(initrd.__file__), *sorted((HERE / "guest").iterdir())]
    digest = hashlib.sha256(hosts.encode() + b"".join(path.read_bytes() for path in inputs)).hexdigest()
    folder = state / f"debian-{digest[:16]}"
    if not folder.exists():
        for old in state.glob("debian-*"):
            shutil.rmtree(old)
        _build(folder.with_suffix(".new"), hosts)
        folder.with_suffix(".new").rename(folder)
    return Base(folder / "disk", folder / "vmlinuz", folder / "initrd")


def _build(folder: Path, hosts: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # dpkg syncs after each step, which costs nothing in memory.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else folder) as temporary:
        Path(temporary).chmod(0o755)
        _fill(Path(temporary) / "root", folder, hosts)


def _fill(root: Path, folder: Path, hosts: str) -> None:
    _run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(SYSTEM + NEEDED)}"),
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        "--dpkgopt=force-unsafe-io",
        f"--customize-hook={UNPACK}",
        *("--format=directory", SUITE, str(root)),
    )
    library = root / "usr/local/lib/control"
    library.mkdir()
    for script in ("control", "address"):
        shutil.copy(HERE / "guest" / script, library)
    units = root / "etc/systemd/system"
    shutil.copy(HERE / "guest/control.service", units)
    (units / "multi-user.target.wants/control.service").symlink_to("../control.service")
    settings = root / "etc/systemd/system.conf.d"
    settings.mkdir()
    shutil.copy(HERE / "guest/system.conf", settings / "slow.conf")
    for unit in MASKED:
        (units / unit).symlink_to("/dev/null")
    (root / "etc/hosts").write_text(hosts)
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")
    (root / "etc/fstab").write_text("/dev/vdb /root/wisehosting ext4 ro,noauto 0 0\n")
    (root / "root/wisehosting").mkdir()
    # Or systemd would rebuild at the first start what the packages have built.
    for updated in ("etc/.updated", "var/.updated"):
        (root / updated).touch()
    [kernel] = (root / "boot").glob("vmlinuz-*-cloud-*")
    shutil.move(kernel, folder / "vmlinuz")
    (folder / "initrd").write_bytes(initrd.archive(root))
    _make_disk(root, folder / "disk", DISK_SIZE)


def payload(disk: Path, programs: Path) -> None:
    """Our repository, as far as an installation needs it, with the programs where a release build puts them."""
    root = disk.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    built = root / "target/release"
    built.mkdir(parents=True)
    for program in PROGRAMS:
        _run("strip", "-o", str(built / program), str(programs / program))
    for part in ("packaging", "examples/hello"):
        shutil.copytree(PROJECT / part, root / part)
    _make_disk(root, disk, "1G")
    shutil.rmtree(root)


def overlay(disk: Path, backing: Path) -> None:
    """A disk that begins as another, and holds what is changed."""
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", "raw", str(disk))


def _make_disk(root: Path, disk: Path, size: str) -> None:
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(root), str(disk), size)


def _run(*command: str) -> None:
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{command[0]} fails: {ended.stderr.strip()}")


def missing(commands: Sequence[str]) -> list[str]:
    """Those of the commands that this host does not have."""
    return [command for command in commands if shutil.which(command) is None]
