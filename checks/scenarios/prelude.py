# What every scenario may use; it is put in front of each. The machines are control_plane_1, worker_1, worker_2 and proxy_1.
# worker_2 is a worker that the others have not been told of.
import shlex

CONTROL_PLANE = "runuser -u wisehosting -- wisehosting-control-plane --config /etc/wisehosting/control-plane.toml"
PUBLIC_DOMAIN = "apps.example.org"
# The example's in fewer steps, each of which takes long where machines are emulated.
DOCKERFILE = """\
FROM docker.io/library/busybox:1
COPY VERSION index.html start.sh built-at /app/
CMD ["/bin/sh", "-c", "cd /app; exec sh start.sh"]
"""


def start_platform():
    """Everything is on, and the platform can be used, whatever happened before."""
    for machine in machines:
        machine.start(allow_reboot=True)
    control_plane_1.wait_for_unit("wisehosting-control-plane.service")
    proxy_1.wait_for_unit("wisehosting-edge.service")
    worker_1.wait_for_unit("wisehosting-worker.service")
    sign_in()
    wait_for_agent("workers", "worker-1")
    wait_for_agent("edges", "proxy-1")


def sign_in():
    """Root on the control plane may use the CLI."""
    control_plane_1.succeed(
        "cd; mkdir --parents .config/wisehosting; cd .config/wisehosting; [[ -e token ]] ||"
        f" {CONTROL_PLANE} token create --email you@example.org --name laptop >token",
        "printf '%s\\n' 'server = \"http://127.0.0.1:8081\"' 'token_file = \"/root/.config/wisehosting/token\"'"
        " >~/.config/wisehosting/config.toml",
        "umask 077; printf 'Authorization: Bearer %s' $(cat ~/.config/wisehosting/token) >/run/api",
    )


def wait_for_agent(kind, name, connected=True):
    """Waits until one of the workers or edges is connected, or is not."""
    is_so = ".connected" if connected else ".connected | not"
    control_plane_1.wait_until_succeeds(
        f"{ask(kind)} | jq --exit-status '.{kind}[] | select(.name == \"{name}\") | {is_so}'"
    )


def ask(path):
    """The command that asks the REST API. What is asked again and again is asked by this: the CLI takes longer to start."""
    return f"curl --silent --show-error --fail --max-time 60 --header @/run/api http://127.0.0.1:8081/v1/{path}"


def prepare_worker(worker):
    """The image that the example begins with, made of the worker's own busybox: there is no registry."""
    worker.succeed(
        "podman image exists docker.io/library/busybox:1 || {"
        " folder=$(mktemp --directory); mkdir --mode 1777 $folder/tmp; mkdir $folder/bin $folder/etc;"
        " cp $(readlink --canonicalize $(command -v busybox)) $folder/bin/busybox;"
        " for applet in $(busybox --list); do [[ $applet == busybox ]] || ln -s busybox $folder/bin/$applet; done;"
        " tar --create --directory $folder . | podman import --quiet - docker.io/library/busybox:1; }"
    )


def serve_repositories():
    """Git repositories below /srv/git of the control plane, over HTTP, to whoever reaches it."""
    control_plane_1.succeed(
        "mkdir --parents /srv/web/cgi-bin /srv/git;"
        " printf '#!/bin/sh\\nGIT_PROJECT_ROOT=/srv/git GIT_HTTP_EXPORT_ALL=1 exec %s http-backend\\n'"
        " $(command -v git) >/srv/web/cgi-bin/git; chmod 755 /srv/web/cgi-bin/git;"
        " systemctl is-active --quiet repositories ||"
        " systemd-run --quiet --unit repositories $(command -v busybox) httpd -f -p 3000 -h /srv/web"
    )
    control_plane_1.wait_for_open_port(3000)


def publish(app, version, dockerfile=DOCKERFILE):
    """Commits the example, in this version, to a repository; answers its address."""
    folder = f"/srv/git/{app}"
    if control_plane_1.execute(f"test -e {folder}")[0] != 0:
        control_plane_1.copy_from_host(f"{EXAMPLES}/hello", "/srv/example/hello")
        control_plane_1.succeed(
            f"mkdir --parents /srv/git; rm -rf {folder}; cp --recursive /srv/example/hello {folder};"
            f" git init --quiet {folder}; echo a while ago >{folder}/built-at"
        )
        if dockerfile:
            control_plane_1.succeed(f"printf %s {shlex.quote(dockerfile)} >{folder}/Dockerfile")
    version = str(version)
    control_plane_1.succeed(
        f"cd {folder}; echo {shlex.quote(version)} >VERSION; git add .;"
        " git -c user.name=Test -c user.email=you@example.org commit --quiet --message version"
    )
    serve_repositories()
    return f"http://control-plane-1:3000/cgi-bin/git/{app}/.git"


def deploy(app, version, options=""):
    """Publishes this version, deploys it, and waits until it is live."""
    repository = publish(app, version)
    return control_plane_1.succeed(f"wisehosting deploy {repository} --name {app} --health-timeout 300 {options}")


def steady():
    """An app that is served, on worker-1 unless it was moved; its version. The scenarios have it in common, since to deploy
    it takes a while."""
    known, version = control_plane_1.execute("cat /srv/git/steady/VERSION")
    if known != 0:
        prepare_worker(worker_1)
        deploy("steady", 1)
    version = 1 if known != 0 else int(version)
    wait_until_served("steady", version)
    return version


def end_steady():
    """For a scenario that needs workers on which nothing runs."""
    control_plane_1.succeed("[[ ! -e /srv/git/steady ]] || wisehosting delete steady", "rm -rf /srv/git/steady")


def containers(app):
    """The command that prints the containers of an app on a worker, one a line."""
    return f"podman ps --quiet --filter label=wisehosting.app={app}"


def request(app):
    """The command that asks the proxy for an app, as a visitor does."""
    return f"curl --silent --show-error --fail --max-time 60 http://proxy-1/ --header 'Host: {app}.{PUBLIC_DOMAIN}'"


def serves(app, version):
    """The command that succeeds if the proxy serves this version."""
    return f"{request(app)} | grep --fixed-strings 'id=\"version\">{version}<' >/dev/null"


def wait_until_served(app, version):
    control_plane_1.wait_until_succeeds(serves(app, version))


def start_visitor(app, name, options=""):
    """Somebody who asks for an app five times a second, and leaves at the first request that fails."""
    control_plane_1.succeed(
        f"rm --force /run/visitor-{name};"
        f" systemd-run --quiet --unit visitor-{name} --property StandardError=file:/run/visitor-{name}"
        f" $(command -v curl) --fail --fail-early --silent --show-error --output /dev/null --rate 5/s {options}"
        f" --write-out '%{{stderr}}%{{http_code}}\n' --header 'Host: {app}.{PUBLIC_DOMAIN}' 'http://proxy-1/?[1-1000000]'"
    )
    control_plane_1.wait_for_file(f"/run/visitor-{name}")


def end_visitor(name):
    """Fails if one of the visitor's requests has failed, up to one that begins now."""
    answers = f"/run/visitor-{name}"
    before = int(control_plane_1.succeed(f"grep --count . {answers} || true"))
    control_plane_1.wait_until_succeeds(
        f"[[ $(grep --count . {answers}) -gt {before} ]] || ! systemctl is-active --quiet visitor-{name}"
    )
    control_plane_1.succeed(
        f"systemctl is-active --quiet visitor-{name} || {{ tail --lines 3 {answers}; false; }}",
        f"systemctl stop visitor-{name}",
    )
    # The last one may have been cut off.
    control_plane_1.fail(f"head --lines=-1 {answers} | grep --invert-match '^200$'")
    print(f"{name}: {before} requests")
