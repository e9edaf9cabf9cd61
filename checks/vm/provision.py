"""From blank machines to hosts of the platform, by the commands of docs/operating.md and files like those it shows.

The result is what machines.nix makes of NixOS machines: the same names, roles, addresses and sets of declared nodes.
"""

import re
import shlex
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from machine import Machine

INSTALL = (
    "install target/release/wisehosting{,-control-plane,-worker,-edge} /usr/bin/",
    "install -D --target-directory /usr/libexec/wisehosting packaging/libexec/*",
    "install --mode 644 packaging/systemd/* /usr/lib/systemd/system/",
    "install --mode 644 packaging/sysusers.d/* /usr/lib/sysusers.d/",
    "install --mode 644 packaging/tmpfiles.d/* /usr/lib/tmpfiles.d/",
    "install --mode 644 packaging/modules-load.d/* /usr/lib/modules-load.d/",
    "systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload",
    "systemctl restart systemd-modules-load",
)
DATABASE = (
    "runuser -u postgres -- createuser wisehosting",
    "runuser -u postgres -- createdb --owner=wisehosting wisehosting",
)
FORWARDING = (
    "install --mode 644 packaging/sysctl.d/* /usr/lib/sysctl.d/",
    "systemctl restart systemd-sysctl",
)
START = {
    "control-plane": (
        "systemctl enable --now wisehosting-control-plane.socket wisehosting-control-plane",
        "systemctl enable --now wisehosting-backup.timer",
    ),
    "worker": ("systemctl enable --now wisehosting-worker",),
    "proxy": ("systemctl enable --now wisehosting-edge-http.socket wisehosting-edge-https.socket wisehosting-edge",),
}
FILES = {"control-plane": "control-plane.toml", "worker": "worker.toml", "proxy": "edge.toml"}
TALKS_TO = {
    "control-plane": ("worker", "proxy"),
    "worker": ("control-plane", "proxy"),
    "proxy": ("control-plane", "worker"),
}
# `install-programs`: what an upgrade begins with. On NixOS a rebuild does it, and machines.nix has nothing to do there.
BUILT = "/root/wisehosting"
PROGRAMS = "\n".join(
    ["#!/bin/bash", "set -eu", f"mountpoint --quiet {BUILT} || mount {BUILT}", f"cd {BUILT}", *INSTALL, ""]
)
# `declare-nodes NAME`: what a rebuild does on NixOS. The same name in machines.nix.
DECLARE = """\
#!/bin/sh
set -eu
install --mode 644 "/etc/wisehosting/sets/$1/"* /etc/wisehosting/
systemctl try-restart wisehosting-control-plane wisehosting-worker wisehosting-edge
"""
COMMANDS = Path("/usr/local/bin")
SETS = {"all": (), "without-worker-2": ("worker-2",)}


@dataclass(frozen=True)
class Node:
    """What the other hosts must know of a host."""

    machine: Machine
    role: str
    number: int
    public_key: str
    api_key_sha256: str

    @property
    def address(self) -> str:
        return f"10.50.0.{self.number}"


def provision(machines: list[Machine]) -> None:
    """All of them at once, as far as they need not know each other."""
    pool = ThreadPoolExecutor()
    try:
        nodes = list(pool.map(_install, machines))
        list(pool.map(lambda node: _configure(node, nodes), nodes))
    finally:
        # Where one fails, nobody waits for the others.
        pool.shutdown(wait=False, cancel_futures=True)


def _install(machine: Machine) -> Node:
    role = machine.name.rpartition("-")[0]
    more = {"control-plane": DATABASE, "worker": FORWARDING, "proxy": ()}[role]
    if role == "control-plane":
        machine.wait_for_file("/run/postgresql/.s.PGSQL.5432")
    write = _files({COMMANDS / "install-programs": PROGRAMS})
    machine.succeed("\n".join([*write, "install-programs", f"cd {BUILT}", *more]))
    machine.succeed(f"systemctl start wisehosting-keys@{role}")
    told = machine.wait_until_succeeds(
        "journalctl --unit 'wisehosting-keys@*' --output cat | tee /run/told; grep publicKey /run/told"
    )
    key, digest = (re.search(f'{name} = "(.*)";', told) for name in ("publicKey", "apiKeySha256"))
    assert key, told
    number = int(machine.succeed("hostname --all-ip-addresses").split()[0].rpartition(".")[2])
    return Node(machine, role, number, key[1], digest[1] if digest else "")


def _configure(node: Node, nodes: list[Node]) -> None:
    files = {COMMANDS / "declare-nodes": DECLARE}
    for name, left_out in SETS.items():
        declared = [other for other in nodes if other.machine.name not in left_out]
        files[Path("/etc/wisehosting/sets", name, FILES[node.role])] = _settings(node, declared)
    node.machine.succeed("\n".join([*_files(files), "declare-nodes without-worker-2", *START[node.role]]))


def _files(texts: dict[Path, str]) -> list[str]:
    """The commands that write them; those of COMMANDS can be run."""
    write = [f"mkdir --parents {path.parent}; printf %s {shlex.quote(text)} >{path}" for path, text in texts.items()]
    return [*write, f"chmod 755 {COMMANDS}/*"]


def _settings(node: Node, declared: list[Node]) -> str:
    agents = {
        kind: "".join(
            f'[[{kind}]]\nname = "{other.machine.name}"\naddress = "{other.address}"\n'
            f'api_key_sha256 = "{other.api_key_sha256}"\n'
            for other in declared
            if other.role == role
        )
        for kind, role in (("workers", "worker"), ("edges", "proxy"))
    }
    own = {"control-plane": CONTROL_PLANE.format(**agents), "worker": WORKER, "proxy": PROXY}[node.role]
    return own.replace("@name@", node.machine.name).replace("@address@", node.address) + _mesh(node, declared)


def _mesh(node: Node, declared: list[Node]) -> str:
    peers = [other for other in declared if other.role in TALKS_TO[node.role] and other is not node]
    return f'[mesh]\naddress = "{node.address}/24"\n[log]\nformat = "journald"\n' + "".join(
        textwrap.dedent(f"""\
            [[mesh.peers]]
            name = "{peer.machine.name}"
            public_key = "{peer.public_key}"
            endpoint = "198.51.100.{peer.number}:51821"
            allowed_ips = ["{peer.address}/32"]
            """)
        for peer in peers
    )


CONTROL_PLANE = """\
[public]
listen = "127.0.0.1:8081"
base_url = "https://hosting.example.org"
[internal]
listen = "@address@:8081"
[database]
url = "postgres://wisehosting@localhost/wisehosting?host=/run/postgresql"
[secrets]
[apps]
domain = "apps.example.org"
[join]
pool = "10.50.0.128/25"
endpoint = "198.51.100.1:51821"
{workers}{edges}"""

WORKER = """\
[control_plane]
url = "http://10.50.0.1:8081"
name = "@name@"
[worker]
address = "@address@"
"""

PROXY = """\
[control_plane]
url = "http://10.50.0.1:8081"
name = "@name@"
[ingress]
http = "0.0.0.0:80"
https = "0.0.0.0:443"
[ingress.tls]
certificates_dir = "/var/lib/wisehosting-edge/certificates"
[gateway]
listen = "@address@:8082"
[state]
dir = "/var/lib/wisehosting-edge"
"""
