UNITS = "wisehosting-control-plane.socket wisehosting-control-plane"

start_platform()
prepare_worker(worker_1)
deploy("kept", "1", "--env TOKEN=nobody-reads-this")
wait_until_served("kept", "1")

with subtest("one is made every night"):
    control_plane_1.wait_for_unit("wisehosting-backup.timer")
    control_plane_1.succeed(
        "systemctl show --property NextElapseUSecRealtime --value wisehosting-backup.timer | grep ' 03:'",
        "systemctl show --property WantedBy --value wisehosting-backup.timer | grep timers.target",
    )

with subtest("a backup is the database and the keys"):
    control_plane_1.succeed("systemctl start wisehosting-backup")
    control_plane_1.succeed("ls /var/lib/wisehosting-backup/*Z/keys | grep jwt_secret")

with subtest("the database alone tells nobody an app's secrets"):
    dump = control_plane_1.succeed("pg_restore --file=- $(ls /var/lib/wisehosting-backup/*Z/database.dump | tail -n 1)")
    assert '"TOKEN": {"k": ' in dump and "nobody-reads-this" not in dump

with subtest("it brings back what was lost, keys and all, and no app has noticed"):
    secret = control_plane_1.succeed("sha256sum /var/lib/wisehosting-keys/*")
    control_plane_1.succeed(f"systemctl stop {UNITS}")
    control_plane_1.succeed(
        "runuser -u postgres -- psql --quiet --command 'DROP TABLE apps CASCADE' wisehosting",
        "rm /var/lib/wisehosting-keys/*",
    )
    control_plane_1.succeed("""
        cd "$(ls -d /var/lib/wisehosting-backup/*Z | tail --lines 1)"
        runuser -u postgres -- pg_restore --clean --if-exists --dbname=wisehosting <database.dump
        install --mode 600 keys/mesh.private_key /var/lib/wisehosting-keys/mesh.key
        install --mode 600 keys/secrets.jwt_secret /var/lib/wisehosting-keys/jwt.secret
        install --mode 600 keys/secrets.master_key /var/lib/wisehosting-keys/master.key
        install --mode 600 keys/secrets.traefik_token /var/lib/wisehosting-keys/traefik.token
    """)
    assert control_plane_1.succeed("sha256sum /var/lib/wisehosting-keys/*") == secret
    worker_1.succeed(serves("kept", "1"))
    control_plane_1.succeed(f"systemctl start {UNITS}")
    start_platform()
    deploy("kept", "2")
    wait_until_served("kept", "2")

with subtest("the master key is replaced"):
    sealed_anew = "journalctl --unit wisehosting-control-plane --output cat | grep 'secrets at rest are sealed anew'"
    control_plane_1.fail(sealed_anew)
    control_plane_1.succeed("""
        cd /var/lib/wisehosting-keys
        (umask 077 && openssl rand -base64 32 | cat - master.key >master.new && mv master.new master.key)
        systemctl restart wisehosting-control-plane
    """)
    control_plane_1.wait_until_succeeds(sealed_anew)
    control_plane_1.succeed("""
        cd /var/lib/wisehosting-keys
        sed --in-place '2,$d' master.key
        systemctl restart wisehosting-control-plane
    """)
    start_platform()
    deploy("kept", "3")
    wait_until_served("kept", "3")

control_plane_1.succeed("wisehosting delete kept")
