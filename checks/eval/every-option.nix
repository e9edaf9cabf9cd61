# Each role with every option set to something else than its default.
let
  nodes = {
    hub = {
      roles = [ "control-plane" ];
      address = "10.60.0.1";
      publicKey = "bIEIXTUJqoyNzVGw3lzTZWFZ0LOEM2vtd7HnzRdXb1s=";
      endpoint = "[2001:db8::1]:51900";
    };
    large = {
      roles = [ "worker" ];
      address = "10.60.0.10";
      publicKey = "GSS54DRaFnihJHqHqMR1rVO1mIMxj43gIHRPGgIcnu4=";
      nextPublicKey = "Zk0wmnTWh8bYbQXz0kNf0vSYF9UqFqPq4yFkU0o3mVU=";
      apiKeySha256 = "152278abb9e33966d2abecd0e8069201accdb474055d6440e3a5fe6abf15056c";
      endpoint = "198.51.100.10:51900";
      memoryBytes = 8589934592;
      cpuMillis = 4000;
    };
    door = {
      roles = [ "proxy" ];
      address = "10.60.0.30";
      publicKey = "rTTfjV0f4zJ7lh5+7Dy0WlIGQCqbxNXe+tV3rTtPNjM=";
      apiKeySha256 = "252278abb9e33966d2abecd0e8069201accdb474055d6440e3a5fe6abf15056c";
    };
  };
  shared = node: {
    services.wisehosting = {
      inherit node nodes;
      mesh = {
        managedBy = "program";
        interface = "mesh0";
        listenPort = 51900;
        prefixLength = 16;
        mtu = 1380;
        keepaliveSeconds = 15;
        privateKeyFile = "/run/secrets/mesh.key";
        makeKeys = false;
      };
    };
  };
in
{
  controlPlane = [
    (shared "hub")
    {
      services.wisehosting.controlPlane = {
        enable = true;
        listen = "[::1]:9000";
        baseUrl = "https://hosting.example.org";
        appsDomain = "apps.example.org";
        internalPort = 8082;
        database = {
          createLocally = false;
          url = "postgres://wisehosting@db.example.org/wisehosting?sslmode=verify-full";
          passwordFile = "/run/secrets/database.password";
        };
        jwtSecretFile = "/run/secrets/jwt.secret";
        masterKeyFile = "/run/secrets/master.key";
        traefikTokenFile = "/run/secrets/traefik.token";
        backup = {
          enable = false;
          startAt = "hourly";
          keepDays = 3;
        };
        settings = {
          log.filter = "debug";
          apps.allow_local_repositories = true;
        };
      };
    }
  ];

  worker = [
    (shared "large")
    {
      services.wisehosting.worker = {
        enable = true;
        apiKeyFile = "/run/secrets/api.key";
        controlPlaneUrl = "http://10.60.0.1:8082";
        ports = "30000-30999";
        builds = 3;
        buildMemoryBytes = 1073741824;
        storageDevice = "/dev/disk/by-label/containers";
        settings.log.format = "json";
      };
    }
  ];

  proxy = [
    (shared "door")
    {
      services.wisehosting.proxy = {
        enable = true;
        ingress = "built-in";
        httpPort = 8080;
        httpsPort = 8443;
        controlPlaneUrl = "http://10.60.0.1:8082";
        apiKeyFile = "/run/secrets/api.key";
        certificatesDirectory = "/var/lib/certificates";
        acme = {
          termsAgreed = true;
          email = "operator@example.org";
          publicAddresses = [ "198.51.100.30" ];
        };
        gateway = {
          enable = true;
          port = 8090;
          tokenFile = "/run/secrets/gateway.token";
          allowedTargets = [ "10.61.0.0/16" ];
        };
        traefikEnvironmentFile = "/run/secrets/traefik.env";
        traefikSettings.log.level = "INFO";
        settings.log.filter = "warn";
      };
    }
  ];
}
