# The cases: name -> { modules; and one of: expect, fires, refused }.
#   expect   { config, options } -> sentence -> whether it holds
#   fires    a part of each assertion that must fire
#   refused  config -> a value that cannot be had, because a type refuses what was set
{ lib }:
let
  every = import ./every-option.nix;
  key = first: "${first}SS54DRaFnihJHqHqMR1rVO1mIMxj43gIHRPGgIcnu4=";
  hash = first: "${first}52278abb9e33966d2abecd0e8069201accdb474055d6440e3a5fe6abf15056c";
  nextKey = "Zk0wmnTWh8bYbQXz0kNf0vSYF9UqFqPq4yFkU0o3mVU=";
  join = {
    pool = "10.50.0.128/25";
    endpoint = "198.51.100.1:51821";
  };

  nodes = {
    control-plane-1 = {
      roles = [ "control-plane" ];
      address = "10.50.0.1";
      publicKey = key "C";
      endpoint = "198.51.100.1:51821";
    };
    worker-1 = {
      roles = [ "worker" ];
      address = "10.50.0.11";
      publicKey = key "W";
      apiKeySha256 = hash "1";
    };
    worker-2 = {
      roles = [ "worker" ];
      address = "10.50.0.12";
      publicKey = key "X";
      apiKeySha256 = hash "2";
    };
    proxy-1 = {
      roles = [ "proxy" ];
      address = "10.50.0.30";
      publicKey = key "P";
      apiKeySha256 = hash "3";
    };
  };
  on = node: settings: {
    networking.hostName = node;
    services.wisehosting = {
      nodes = lib.mapAttrs (_: lib.mapAttrs (_: lib.mkDefault)) nodes;
    }
    // settings;
  };
  controlPlane = on "control-plane-1" {
    controlPlane = {
      enable = true;
      baseUrl = "https://hosting.example.org";
      appsDomain = "apps.example.org";
    };
  };
  worker = on "worker-1" { worker.enable = true; };
  proxy = on "proxy-1" { proxy.enable = true; };
  with' = module: settings: [
    module
    { services.wisehosting = settings; }
  ];

  # Without an edge beside it.
  traefik = with' proxy {
    proxy.ingress = "traefik";
    proxy.traefikEnvironmentFile = "/run/secrets/traefik.env";
    nodes.proxy-1.edge = false;
    nodes.proxy-1.apiKeySha256 = null;
  };
  traefikOf = version: {
    services.traefik.package = {
      type = "derivation";
      outPath = "${builtins.storeDir}/traefik";
      inherit version;
    };
  };

  names = lib.catAttrs "name";
  sorted = lib.sort lib.lessThan;
  openInMesh =
    config: ports:
    let
      here = config.networking.firewall.interfaces.wh0;
    in
    sorted here.allowedTCPPorts == ports && here.allowedUDPPorts == [ ];
  # To everybody: the mesh's port, these, and no other.
  openToAll =
    config: ports:
    let
      inherit (config.networking) firewall;
    in
    sorted firewall.allowedTCPPorts == ports && firewall.allowedUDPPorts == [ 51821 ];
  credentials = config: unit: config.systemd.services.${unit}.serviceConfig.LoadCredential;

  # Options of ours below `tree`, without the sets that people fill by name.
  leaves =
    tree:
    lib.concatMap (
      name:
      let
        here = tree.${name};
      in
      if !lib.isAttrs here || lib.hasPrefix "_" name then
        [ ]
      else if lib.isOption here then
        lib.optional (!(here.internal or false)) here
      else
        leaves here
    ) (lib.attrNames tree);
  untouched = tree: lib.filter (option: option.highestPrio >= 1000) (leaves tree);
  described = option: option ? description && option ? example;
  # Options that name a secret, and a path that everybody may read.
  secrets = tree: lib.filter (option: lib.hasSuffix "File" (lib.last option.loc)) (leaves tree);
  inStore = "${builtins.storeDir}/00000000000000000000000000000000-key";
in
{
  "nothing is enabled".modules = [ ];
  "nothing is enabled".expect =
    { config, options }:
    {
      "no unit is there" =
        lib.filter (lib.hasPrefix "wisehosting") (lib.attrNames config.systemd.services) == [ ];
      "every option is described, with an example" = lib.all described (
        leaves options.services.wisehosting ++ leaves (options.services.wisehosting.nodes.type.getSubOptions [ ])
      );
      "no secret may be in the store" =
        let
          types = lib.catAttrs "type" (secrets options.services.wisehosting);
        in
        lib.length types == 9 && lib.all (type: type.check "/run/key" && !type.check inStore) types;
    };

  "control plane".modules = [ controlPlane ];
  "control plane".expect =
    { config, ... }:
    let
      inherit (config.services.wisehosting.controlPlane) settings;
    in
    {
      "its agents are the nodes" =
        names settings.workers == [
          "worker-1"
          "worker-2"
        ]
        && names settings.edges == [ "proxy-1" ];
      "its peers are all others" =
        names settings.mesh.peers == [
          "proxy-1"
          "worker-1"
          "worker-2"
        ];
      "agents connect in the mesh only" =
        settings.internal.listen == "10.50.0.1:8081"
        && openInMesh config [
          9
          8081
        ];
      "nothing but the mesh is open to all" = openToAll config [ ];
      "Postgres has a database and a role for it" =
        config.services.postgresql.enable
        && lib.elem "wisehosting" config.services.postgresql.ensureDatabases;
      "no secret is in the file" = settings.secrets == { } && !settings.mesh ? private_key_file;
      "systemd hands it its secrets" =
        credentials config "wisehosting-control-plane" == [
          ""
          "mesh.private_key:/var/lib/wisehosting-keys/mesh.key"
          "secrets.jwt_secret:/var/lib/wisehosting-keys/jwt.secret"
          "secrets.master_key:/var/lib/wisehosting-keys/master.key"
          "secrets.traefik_token:/var/lib/wisehosting-keys/traefik.token"
        ];
      "its database is backed up" =
        config.systemd.timers.wisehosting-backup.wantedBy == [ "timers.target" ];
    };

  "a proxy without an edge".modules = with' controlPlane { nodes.proxy-1.edge = false; };
  "a proxy without an edge".expect =
    { config, ... }:
    let
      inherit (config.services.wisehosting.controlPlane) settings;
    in
    {
      "no deploy waits for it" = settings.edges == [ ];
      "it is in the mesh" = lib.elem "proxy-1" (names settings.mesh.peers);
    };

  "worker".modules = [ worker ];
  "worker".expect =
    { config, ... }:
    let
      inherit (config.services.wisehosting.worker) settings;
    in
    {
      "it finds the control plane" = settings.control_plane.url == "http://10.50.0.1:8081";
      "it talks to no other worker" =
        names settings.mesh.peers == [
          "control-plane-1"
          "proxy-1"
        ];
      "apps are published in the mesh" = settings.worker.address == "10.50.0.11";
      "its builds are bounded together" =
        config.systemd.slices.wisehosting_builds.sliceConfig.MemoryMax == "4294967296";
      "Podman is there" = config.virtualisation.podman.enable;
      "packets are forwarded" = config.boot.kernel.sysctl."net.ipv4.ip_forward" == 1;
      "it has a kernel with WireGuard" = lib.elem "wireguard" config.boot.kernelModules;
      "nothing but the mesh is open to all" = openToAll config [ ];
      "how far it is from others is measured in the mesh" = openInMesh config [ 9 ];
    };

  "proxy".modules = [ proxy ];
  "proxy".expect =
    { config, ... }:
    {
      "ports 80 and 443 are open, and no others" =
        openToAll config [
          80
          443
        ]
        && openInMesh config [ 9 ];
      "the edge owns its folder, and not the certificates" = config.systemd.tmpfiles.rules == [
        "d /var/lib/wisehosting-edge 0750 wisehosting-edge wisehosting-edge"
        "d /var/lib/wisehosting-edge/certificates 0750 root wisehosting-edge"
      ];
      "they are passed as sockets" =
        config.systemd.sockets.wisehosting-edge-http.listenStreams == [
          ""
          "80"
        ];
      "it talks to the workers" =
        names config.services.wisehosting.proxy.settings.mesh.peers == [
          "control-plane-1"
          "worker-1"
          "worker-2"
        ];
    };

  "proxy with Traefik".modules = traefik ++ [ (traefikOf "3.7.9") ];
  "proxy with Traefik".expect =
    { config, ... }:
    {
      "Traefik runs, and no edge" =
        config.services.traefik.enable && !config.systemd.services ? wisehosting-edge;
      "it asks the control plane" =
        config.services.traefik.staticConfigOptions.providers.http.endpoint
        == "http://10.50.0.1:8081/v1/traefik/proxy-config";
      "NixOS makes the mesh" = config.networking.wireguard.interfaces.wh0.ips == [ "10.50.0.30/24" ];
      "headers that look like others do not get through" =
        config.services.traefik.staticConfigOptions.entryPoints.websecure.http == {
          underscoreHeadersStrategy = "delete";
          tls = { };
        };
      "it is started again and again" = config.systemd.services.traefik.startLimitIntervalSec == 0;
      "nothing is missing at a node that has no edge" = config.warnings == [ ];
    };

  "an older Traefik".modules = traefik ++ [ (traefikOf "3.7.5") ];
  "an older Traefik".expect =
    { config, ... }:
    {
      "it is given no option that it does not know" =
        config.services.traefik.staticConfigOptions.entryPoints.web == {
          address = ":80";
        };
    };

  "a newer Traefik with certificates of its own".modules = traefik ++ [
    (traefikOf "3.7.12")
    {
      services.wisehosting.proxy.traefikSettings = {
        certificatesResolvers.le.acme.httpChallenge.entryPoint = "web";
        entryPoints.websecure.http.tls.certResolver = "le";
        entryPoints.web.http.aliasHeadersStrategy = "reject";
      };
    }
  ];
  "a newer Traefik with certificates of its own".expect =
    { config, ... }:
    let
      settings = config.services.traefik.staticConfigOptions;
    in
    {
      "the resolver is there" = settings.certificatesResolvers.le.acme.httpChallenge.entryPoint == "web";
      "the entry point has it, and what it had" =
        settings.entryPoints.websecure.http == {
          aliasHeadersStrategy = "delete";
          tls.certResolver = "le";
        };
      "one's own word wins" = settings.entryPoints.web.http.aliasHeadersStrategy == "reject";
      "its routes come as before" = settings.providers.http.pollInterval == "1s";
    };

  "proxy with Traefik and a gateway".modules = with' proxy {
    proxy.ingress = "traefik";
    proxy.gateway.enable = true;
  };
  "proxy with Traefik and a gateway".expect =
    { config, ... }:
    {
      "Traefik runs, and an edge that tells it the routes" =
        config.services.traefik.enable
        && config.services.wisehosting.proxy.settings.ingress == {
          traefik.dynamic_dir = "/var/lib/wisehosting-traefik";
        };
      "the edge may write them" = config.systemd.services.wisehosting-edge.serviceConfig.ReadWritePaths == [
        "/var/lib/wisehosting-traefik"
      ];
      "the ports are left to Traefik" = !config.systemd.sockets.wisehosting-edge-http.enable;
      "the edge makes the mesh" = config.services.wisehosting.proxy.settings ? mesh;
      "Traefik watches them" =
        config.services.wisehosting.proxy.traefikSettings.providers.file.directory
        == "/var/lib/wisehosting-traefik";
    };

  "proxy with a gateway".modules = with' proxy {
    proxy.gateway.enable = true;
    mesh.managedBy = "system";
  };
  "proxy with a gateway".expect =
    { config, ... }:
    {
      "it answers in the mesh only" =
        config.services.wisehosting.proxy.settings.gateway.listen == "10.50.0.30:8082"
        && openInMesh config [
          9
          8082
        ]
        && openToAll config [
          80
          443
        ];
      "it leads into the mesh" =
        config.services.wisehosting.proxy.settings.gateway.interface == "wh0"
        && config.services.wisehosting.proxy.settings.gateway.allowed_targets == [ "10.50.0.30/24" ];
      "systemd hands it the token" = lib.elem "gateway.token:/var/lib/wisehosting-keys/gateway.token" (
        credentials config "wisehosting-edge"
      );
      "it may change the network" =
        !config.systemd.services.wisehosting-edge.serviceConfig ? CapabilityBoundingSet;
    };

  "a control plane that is a worker, too".modules = with' controlPlane {
    worker.enable = true;
    nodes.control-plane-1.roles = [
      "control-plane"
      "worker"
    ];
    nodes.control-plane-1.apiKeySha256 = hash "4";
    mesh.managedBy = "system";
  };
  "a control plane that is a worker, too".expect =
    { config, ... }:
    {
      "it lets itself connect" =
        names config.services.wisehosting.controlPlane.settings.workers == [
          "control-plane-1"
          "worker-1"
          "worker-2"
        ];
      "the worker finds it" =
        config.services.wisehosting.worker.settings.control_plane.url == "http://10.50.0.1:8081";
      "it talks to everybody" = lib.length config.networking.wireguard.interfaces.wh0.peers == 3;
      "no program makes the mesh" =
        !config.services.wisehosting.controlPlane.settings ? mesh
        && !config.services.wisehosting.worker.settings ? mesh;
      "no program may change the network more than it must" =
        config.systemd.services.wisehosting-control-plane.serviceConfig.CapabilityBoundingSet == [ "" ];
      "the key that both have is made once" =
        config.systemd.services."wisehosting-keys@worker".after == [
          "wisehosting-keys@control-plane.service"
        ]
        && config.systemd.services."wisehosting-keys@control-plane".after == [ ];
    };

  "a setting of one's own wins".modules = with' worker {
    worker.settings.log.format = "text";
    worker.settings.podman.socket = "/run/other.sock";
  };
  "a setting of one's own wins".expect =
    { config, ... }:
    {
      "it is in the file" =
        config.services.wisehosting.worker.settings.log.format == "text"
        && config.services.wisehosting.worker.settings.podman.socket == "/run/other.sock";
    };

  "a control plane that changes its key".modules = with' controlPlane {
    nodes.control-plane-1.nextPublicKey = nextKey;
    controlPlane.settings = { inherit join; };
  };
  "a control plane that changes its key".expect =
    { config, ... }:
    {
      "nodes that have joined are told" =
        config.services.wisehosting.controlPlane.settings.join == join // { next_public_key = nextKey; };
    };
  "a control plane that changes its key, which nobody has joined".modules = with' controlPlane {
    nodes.control-plane-1.nextPublicKey = nextKey;
  };
  "a control plane that changes its key, which nobody has joined".expect =
    { config, ... }:
    {
      "nobody can join" = !config.services.wisehosting.controlPlane.settings ? join;
    };
  "a worker whose control plane changes its key".modules = with' worker {
    nodes.control-plane-1.nextPublicKey = nextKey;
  };
  "a worker whose control plane changes its key".expect =
    { config, ... }:
    {
      "it knows both" =
        let
          hub = lib.head config.services.wisehosting.worker.settings.mesh.peers;
        in
        hub.name == "control-plane-1" && hub.public_key == key "C" && hub.next_public_key == nextKey;
    };

  "a node without keys".modules = with' controlPlane {
    nodes.worker-2.publicKey = null;
    nodes.worker-2.apiKeySha256 = null;
  };
  "a node without keys".expect =
    { config, ... }:
    {
      "it waits outside" =
        names config.services.wisehosting.controlPlane.settings.workers == [ "worker-1" ];
      "a warning says where its keys are" = lib.any (lib.hasInfix "journalctl") config.warnings;
    };

  "every option of a control plane".modules = every.controlPlane;
  "every option of a control plane".expect =
    { config, options }:
    {
      "every one is set" =
        untouched options.services.wisehosting.controlPlane ++ untouched options.services.wisehosting.mesh
        == [ ];
      "the password is a credential" =
        lib.elem "database.password:/run/secrets/database.password" (
          credentials config "wisehosting-control-plane"
        )
        && lib.hasPrefix "/run/credentials/" config.services.wisehosting.controlPlane.settings.database.password_file;
      "no key is made" = !config.systemd.services."wisehosting-keys@control-plane".enable;
      "no Postgres runs" = !config.services.postgresql.enable;
    };
  "every option of a worker".modules = every.worker;
  "every option of a worker".expect =
    { config, options }:
    {
      "every one is set" = untouched options.services.wisehosting.worker == [ ];
      "its storage can hold quotas" = lib.elem "pquota" config.fileSystems."/var/lib/containers".options;
    };
  "every option of a proxy".modules = every.proxy;
  "every option of a proxy".expect =
    { options, ... }:
    {
      "every one is set" = untouched options.services.wisehosting.proxy == [ ];
    };

  "certificates are ordered when the terms are agreed to".modules = with' proxy {
    proxy.acme.termsAgreed = true;
  };
  "certificates are ordered when the terms are agreed to".expect =
    { config, ... }:
    {
      "the edge is told" = config.services.wisehosting.proxy.settings.ingress.acme == {
        terms_agreed = true;
        public_addresses = [ ];
      };
    };

  "a host that is no node".modules = with' worker { node = "worker-9"; };
  "a host that is no node".fires = [ "hosts/worker-9/node.nix" ];
  "no control plane".modules = with' worker { nodes.control-plane-1.roles = [ "worker" ]; };
  "no control plane".fires = [
    ''must have one node with roles = [ "control-plane" ]''
    "worker.controlPlaneUrl is not known"
  ];
  "another role".modules = with' worker { node = "proxy-1"; };
  "another role".fires = [ "change the roles, or enable the modules" ];
  "a role that is not enabled".modules = with' controlPlane {
    nodes.control-plane-1.roles = [
      "control-plane"
      "worker"
    ];
    mesh.managedBy = "system";
  };
  "a role that is not enabled".fires = [ "change the roles, or enable the modules" ];
  "worker and proxy at once".modules = with' worker {
    proxy.enable = true;
    nodes.worker-1.roles = [
      "worker"
      "proxy"
    ];
    mesh.managedBy = "system";
  };
  "worker and proxy at once".fires = [ "and worker-1 of services.wisehosting.nodes" ];
  "one address twice".modules = with' worker { nodes.worker-2.address = "10.50.0.11"; };
  "one address twice".fires = [ "have the address 10.50.0.11: give each its own" ];
  "two programs, one interface".modules = with' controlPlane {
    worker.enable = true;
    nodes.control-plane-1.roles = [
      "control-plane"
      "worker"
    ];
  };
  "two programs, one interface".fires = [ ''mesh.managedBy = "system"'' ];
  "networkd and a key that is root's alone".modules = with' worker { mesh.managedBy = "system"; } ++ [
    { networking.wireguard.useNetworkd = true; }
  ];
  "networkd and a key that is root's alone".fires = [ "the group systemd-network may read it" ];
  "networkd and a key of its own".modules =
    with' worker {
      mesh.managedBy = "system";
      mesh.privateKeyFile = "/run/secrets/mesh.key";
    }
    ++ [ { networking.wireguard.useNetworkd = true; } ];
  "networkd and a key of its own".expect =
    { config, ... }:
    {
      "no unit of an interface is changed that there is not" = !config.systemd.services ? wireguard-wh0;
      "it has its key" =
        config.networking.wireguard.interfaces.wh0.privateKeyFile == "/run/secrets/mesh.key";
    };
  "a password for a local Postgres".modules = with' controlPlane {
    controlPlane.database.passwordFile = "/run/secrets/password";
  };
  "a password for a local Postgres".fires = [ "database.createLocally = false" ];
  "a password in the database's address".modules = with' controlPlane {
    controlPlane.database.createLocally = false;
    controlPlane.database.url = "postgres://wisehosting:secret@db.example.org:5432/wisehosting";
  };
  "a password in the database's address".fires = [ "database.url has a password in it" ];
  "a password among the settings of the database's address".modules = with' controlPlane {
    controlPlane.database.createLocally = false;
    controlPlane.database.url = "postgres://wisehosting@db.example.org/wisehosting?sslmode=require&password=secret";
  };
  "a password among the settings of the database's address".fires = [
    "database.url has a password in it"
  ];
  "a database at a port".modules = with' controlPlane {
    controlPlane.database.createLocally = false;
    controlPlane.database.url = "postgres://wisehosting@db.example.org:5432/wisehosting?host=/run/a:b@c";
  };
  "a database at a port".expect =
    { config, ... }:
    {
      "it is in the file" =
        lib.hasInfix ":5432" config.services.wisehosting.controlPlane.settings.database.url;
    };
  "a backup of another host".modules = with' controlPlane {
    controlPlane.database.createLocally = false;
    controlPlane.backup.enable = true;
  };
  "a backup of another host".fires = [ "controlPlane.backup.enable = false" ];
  "two listeners on one port".modules = with' controlPlane { controlPlane.listen = "0.0.0.0:8081"; };
  "two listeners on one port".fires = [ "choose another port there" ];
  "a firewall that deletes Podman's rules".modules = [
    worker
    {
      networking.nftables.enable = true;
      networking.nftables.flushRuleset = true;
    }
  ];
  "a firewall that deletes Podman's rules".fires = [ "networking.nftables.flushRuleset = false" ];
  "Traefik without a token".modules = with' proxy {
    proxy.ingress = "traefik";
    nodes.proxy-1.edge = false;
  };
  "Traefik without a token".fires = [ "proxy.traefikEnvironmentFile" ];
  "Traefik without a mesh".modules = traefik ++ [
    { services.wisehosting.mesh.managedBy = "program"; }
  ];
  "Traefik without a mesh".fires = [ ''mesh.managedBy = "system"'' ];

  "Traefik where the control plane waits for an edge".modules = with' proxy {
    proxy.ingress = "traefik";
    proxy.traefikEnvironmentFile = "/run/secrets/traefik.env";
  };
  "Traefik where the control plane waits for an edge".fires = [ "each deploy would wait for one" ];
  "an edge that the control plane does not know".modules = with' proxy { nodes.proxy-1.edge = false; };
  "an edge that the control plane does not know".fires = [ "would not let it connect" ];

  "a secret in the store".modules = with' worker {
    worker.apiKeyFile = inStore;
  };
  "a secret in the store".refused = config: config.services.wisehosting.worker.apiKeyFile;
  "an address that is none".modules = with' worker {
    nodes.worker-1.address = "worker-1.example.org";
  };
  "an address that is none".refused = config: config.services.wisehosting.nodes.worker-1.address;
  "a key that is none".modules = with' worker { nodes.worker-2.publicKey = "secret"; };
  "a key that is none".refused = config: config.services.wisehosting.nodes.worker-2.publicKey;
  "an unknown option".modules = with' worker { worker.buildz = 2; };
  "an unknown option".refused = config: config.services.wisehosting.worker.enable;
}
