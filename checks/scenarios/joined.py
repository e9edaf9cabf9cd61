NODE = f"{CONTROL_PLANE} node"
# What `join` types.
JOIN = (
    "wisehosting-worker --config /etc/wisehosting/worker.toml"
    " join --control-plane http://control-plane-1:8443 --name worker-3 --token-file -"
)
# The tunnels of the control plane, by the only address that can be given to who joins.
IN_THE_MESH = "wg show wh0 allowed-ips | grep --fixed-strings '10.50.0.129/32'"


def new_token():
    return control_plane_1.succeed(f"{NODE} token create --role worker").strip()


start_platform()
version = steady()
prepare_worker(worker_2)
# In the place of the front that speaks TLS.
control_plane_1.succeed(
    "systemd-run --quiet --unit front --socket-property ListenStream=8443"
    " $(dirname $(readlink --canonicalize $(command -v systemctl)))/../lib/systemd/systemd-socket-proxyd 127.0.0.1:8081"
)

with subtest("a machine that nothing declares becomes a worker with a token alone"):
    worker_2.succeed(
        "systemctl stop wisehosting-worker", "mv /etc/wisehosting/worker.toml /run/declared.toml", "ip link delete wh0"
    )
    worker_2.succeed(f"echo {new_token()} | {JOIN}")
    worker_2.succeed("systemctl start wisehosting-worker")
    wait_for_agent("workers", "worker-3")
    control_plane_1.succeed(f"{NODE} list | grep worker-3", IN_THE_MESH)

with subtest("apps are served from there"):
    start_visitor("steady", "move")
    control_plane_1.succeed(f"{CONTROL_PLANE} worker drain --name worker-1")
    worker_1.wait_until_fails(f"{containers('steady')} | grep .")
    worker_2.succeed(f"{containers('steady')} | grep .")
    end_visitor("move")
    control_plane_1.succeed(f"{CONTROL_PLANE} worker resume --name worker-1")

with subtest("one of that name with another key comes in when it is named only"):
    token = new_token()
    worker_2.succeed(
        "systemctl stop wisehosting-worker",
        "cd /var/lib/wisehosting-keys; cp --preserve mesh.key /run/mesh.key; wg genkey >mesh.key",
    )
    key = worker_2.succeed("wg pubkey </var/lib/wisehosting-keys/mesh.key").strip()
    assert "node rekey" in worker_2.fail(f"echo {token} | {JOIN} 2>&1")
    control_plane_1.succeed(f"{NODE} rekey --name worker-3 --public-key {key}")
    worker_2.succeed(f"echo {token} | {JOIN}", "systemctl start wisehosting-worker")
    wait_for_agent("workers", "worker-3")
    wait_until_served("steady", version)

with subtest("a token that is revoked lets nobody in"):
    token = new_token()
    number = control_plane_1.succeed(f"{NODE} token list | tee /dev/stderr | tail --lines 1").split()[0]
    control_plane_1.succeed(f"{NODE} token revoke --id {number}")
    worker_2.fail(f"echo {token} | {JOIN}")

with subtest("a node that is drained and removed is out of the mesh"):
    control_plane_1.succeed(f"{CONTROL_PLANE} worker drain --name worker-3")
    worker_2.wait_until_fails(f"{containers('steady')} | grep .")
    control_plane_1.succeed(f"{NODE} remove --name worker-3")
    control_plane_1.wait_until_fails(IN_THE_MESH)
    wait_until_served("steady", version)

worker_2.succeed(
    "systemctl stop wisehosting-worker",
    "rm /etc/wisehosting/worker.joined.toml; ip link delete wh0",
    "mv /run/declared.toml /etc/wisehosting/worker.toml; mv /run/mesh.key /var/lib/wisehosting-keys/",
    "systemctl start wisehosting-worker",
    "podman rm --all --force",
)
control_plane_1.succeed("systemctl stop front.socket front")
