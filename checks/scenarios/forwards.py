start_platform()

GATEWAY = "curl --silent --show-error --fail --max-time 60 --header @/run/gateway http://10.50.0.30:8082"
FORWARD = '{ "forward_id": "door", "public_port": 7000, "target_ip": "10.50.0.11", "target_port": 20999 }'
VISIT = "curl --silent --show-error --fail --max-time 60 http://proxy-1:7000/index.html | grep inside"

worker_1.succeed(
    "mkdir --parents /srv/inside; echo inside >/srv/inside/index.html;"
    " systemd-run --quiet --unit inside $(command -v busybox) httpd -f -p 10.50.0.11:20999 -h /srv/inside"
)
worker_1.wait_for_open_port(20999, "10.50.0.11")
HEADER = "printf 'Authorization: Bearer %s' $(cat /var/lib/wisehosting-keys/gateway.token) >/run/gateway"
proxy_1.succeed(f"umask 077; {HEADER}")

with subtest("the gateway answers in the mesh, to whoever has its token"):
    control_plane_1.succeed("curl --silent --fail --max-time 60 http://10.50.0.30:8082/health")
    control_plane_1.fail("curl --silent --fail --max-time 60 http://10.50.0.30:8082/tcp/forwards")
    control_plane_1.fail("curl --silent --fail --max-time 60 http://proxy-1:8082/health")

with subtest("a forward leads into the mesh"):
    control_plane_1.fail(VISIT)
    proxy_1.succeed(f"{GATEWAY}/tcp/forwards --header 'Content-Type: application/json' --data '{FORWARD}'")
    control_plane_1.succeed(VISIT)

with subtest("it is there again after the proxy has crashed"):
    proxy_1.crash()
    proxy_1.start(allow_reboot=True)
    proxy_1.wait_for_unit("wisehosting-edge.service")
    control_plane_1.wait_until_succeeds(VISIT)

with subtest("nothing is left of it when it is removed"):
    proxy_1.succeed(f"umask 077; {HEADER}")
    proxy_1.succeed(f"{GATEWAY}/tcp/forwards/door --request DELETE")
    control_plane_1.fail(VISIT)

worker_1.succeed("systemctl stop inside")
