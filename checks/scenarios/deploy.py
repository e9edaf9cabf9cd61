start_platform()
prepare_worker(worker_1)

with subtest("code becomes an address"):
    # With the example's own Dockerfile.
    repository = publish("first", "1", dockerfile=None)
    print(control_plane_1.succeed(f"wisehosting deploy {repository} --name first --health-timeout 300"))
    wait_until_served("first", "1")
    control_plane_1.succeed("wisehosting apps show first | grep first.apps.example.org")
    control_plane_1.succeed("wisehosting logs first --build | grep 'this is version 1'")

with subtest("the app is nowhere but in the mesh and at the proxy"):
    published = worker_1.succeed("podman ps --format '{{.Ports}}'")
    assert published and "0.0.0.0" not in published, published
    control_plane_1.fail("curl --silent --fail --max-time 60 http://proxy-1/ --header 'Host: other.apps.example.org'")

with subtest("a commit that does not build changes nothing"):
    folder = "/srv/git/first"
    control_plane_1.succeed(f"cd {folder}; echo 'RUN false' >>Dockerfile")
    repository = publish("first", "2")
    control_plane_1.fail(f"wisehosting deploy {repository} --name first")
    control_plane_1.succeed(serves("first", "1"))
    control_plane_1.succeed(f"cd {folder}; git checkout --quiet HEAD~1 Dockerfile")

with subtest("a sign-in link, and a token that is lost"):
    control_plane_1.succeed(f"{CONTROL_PLANE} login-link --email you@example.org | grep https://hosting.example.org/")
    control_plane_1.succeed(f"{CONTROL_PLANE} token revoke --email you@example.org --name laptop")
    control_plane_1.fail("wisehosting apps")
    control_plane_1.succeed("rm ~/.config/wisehosting/token")
    sign_in()

with subtest("no certificate is kept where no edge orders any"):
    listed = control_plane_1.succeed(f"{CONTROL_PLANE} certificate list").splitlines()
    assert len(listed) == 1 and listed[0].split()[0] == "HOST", listed
    refused = control_plane_1.fail(f"{CONTROL_PLANE} certificate forget --host blog.apps.example.org 2>&1")
    assert "no certificate of blog.apps.example.org is kept" in refused, refused

with subtest("an app that is deleted is not served"):
    control_plane_1.succeed("wisehosting delete first")
    control_plane_1.wait_until_fails(request("first"))
