# The host's place in the mesh: its key, its peers, its firewall. What a role's program is told follows from the nodes.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.wisehosting.mesh;
  inherit (config.services.wisehosting)
    node
    nodes
    controlPlane
    worker
    proxy
    ;
  wise = import ./lib { inherit config lib pkgs; };

  roles =
    lib.optional controlPlane.enable "control-plane"
    ++ lib.optional worker.enable "worker"
    ++ lib.optional proxy.enable "proxy";

  # The control plane talks to everybody, workers and proxies to each other, and no worker to a worker.
  talks = {
    control-plane = [
      "control-plane"
      "worker"
      "proxy"
    ];
    worker = [
      "control-plane"
      "proxy"
    ];
    proxy = [
      "control-plane"
      "worker"
    ];
  };
  talksTo = lib.concatMap (role: talks.${role}) roles;
  isPeer =
    name: other:
    name != node && other.publicKey != null && lib.intersectLists other.roles talksTo != [ ];
  peers = lib.filterAttrs isPeer nodes;

  # Root's alone. Its files are made by the unit of a role.
  keys = "/var/lib/wisehosting-keys/";
  keysOf = role: "wisehosting-keys@${role}.service";
  # systemd-networkd has no unit of an interface's own.
  waitsForKeys = cfg.makeKeys && !config.networking.wireguard.useNetworkd;
in
{
  imports = [ ./nodes.nix ];

  options.services.wisehosting = {
    mesh = {
      enable = lib.mkEnableOption "the mesh of the platform's hosts; every role enables it";

      managedBy = mkOption {
        type = types.enum [
          "program"
          "system"
        ];
        default = "program";
        example = "system";
        description = ''
          Who makes the WireGuard interface. `program`: the role's program, which repairs it when somebody changes it, and
          leaves it in place when it stops. `system`: NixOS; then the programs need no right to change the network, and
          the control plane can share its host with a worker or with an edge.
        '';
      };

      interface = mkOption {
        type = types.strMatching "[a-zA-Z0-9_.-]{1,15}";
        default = "wh0";
        example = "mesh0";
        description = "Name of the interface.";
      };

      listenPort = mkOption {
        type = types.port;
        default = 51821;
        example = 51900;
        description = "UDP port for the other hosts, opened in the firewall.";
      };

      prefixLength = mkOption {
        type = types.ints.between 8 30;
        default = 24;
        example = 16;
        description = "Length of the mesh's prefix.";
      };

      mtu = mkOption {
        type = types.ints.between 1280 65455;
        default = 1420;
        example = 1380;
        description = "Largest packet inside the tunnel, in bytes.";
      };

      keepaliveSeconds = mkOption {
        type = types.ints.between 0 65535;
        default = 25;
        example = 0;
        description = "Seconds between packets that keep the way to a peer open; 0 for none.";
      };

      privateKeyFile = wise.secret "mesh.key" "The private key in base64.";

      makeKeys = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether the host makes the keys that its role needs when it starts and they are not in /var/lib/wisehosting-keys
          yet. Say false where all secrets come from elsewhere.
        '';
      };

      settings = mkOption {
        type = types.attrsOf types.anything;
        internal = true;
        readOnly = true;
        description = "The section `mesh` of a program's configuration.";
      };
    };

    # Here, and not in the modules of the roles, of which a host may import one only.
    controlPlane.enable = lib.mkEnableOption "the control plane of WiseHosting on this host";
    worker.enable = lib.mkEnableOption "a worker of WiseHosting on this host";
    proxy.enable = lib.mkEnableOption "the public door for the apps of WiseHosting on this host";
  };

  config = lib.mkMerge [
    {
      services.wisehosting.mesh = {
        enable = lib.mkIf (roles != [ ]) true;
        settings = lib.optionalAttrs cfg.enable {
          inherit (cfg) interface mtu;
          address = "${nodes.${node}.address}/${toString cfg.prefixLength}";
          listen_port = cfg.listenPort;
          peers = lib.mapAttrsToList (
            name: peer:
            {
              inherit name;
              public_key = peer.publicKey;
              allowed_ips = [ "${peer.address}/32" ];
              keepalive_s = cfg.keepaliveSeconds;
            }
            // lib.optionalAttrs (peer.endpoint != null) { inherit (peer) endpoint; }
            // lib.optionalAttrs (peer.nextPublicKey != null) { next_public_key = peer.nextPublicKey; }
          ) peers;
        };
      };
    }

    (lib.mkIf cfg.enable {
      assertions = [
        {
          assertion = cfg.managedBy == "system" || lib.length roles <= 1;
          message = ''
            This host has the roles ${lib.concatStringsSep ", " roles}, and only one program can make the interface ${cfg.interface}:
            set services.wisehosting.mesh.managedBy = "system".
          '';
        }
        {
          assertion =
            cfg.managedBy == "system" && config.networking.wireguard.useNetworkd
            -> !lib.hasPrefix keys cfg.privateKeyFile;
          message = ''
            systemd-networkd makes the interface ${cfg.interface}, as a user who may not read ${cfg.privateKeyFile}: put the key where
            the group systemd-network may read it and name that file in services.wisehosting.mesh.privateKeyFile, or set
            networking.wireguard.useNetworkd = false.
          '';
        }
      ];

      boot.kernelModules = [ "wireguard" ];
      networking.firewall.allowedUDPPorts = [ cfg.listenPort ];
      # Nobody listens there: to be refused is the answer by which other hosts measure the way to this one.
      networking.firewall.interfaces.${cfg.interface}.allowedTCPPorts = [ 9 ];
      environment.systemPackages = [ pkgs.wireguard-tools ];
      systemd.packages = [ config.services.wisehosting.package ];

      systemd.services = lib.listToAttrs (
        map (role: {
          name = "wisehosting-keys@${role}";
          value = {
            # To change one of a template is to write beside it; to switch it off is to take its place.
            enable = cfg.makeKeys;
            overrideStrategy = if cfg.makeKeys then "asDropin" else "asDropinIfExists";
            path = [ pkgs.wireguard-tools ];
            # One after the other: the roles of a host have the key of the mesh in common.
            after = map keysOf (lib.filter (other: other < role) roles);
          };
        }) roles
      );
    })

    (lib.mkIf (cfg.enable && cfg.managedBy == "system") {
      networking.wireguard.interfaces.${cfg.interface} = {
        ips = [ cfg.settings.address ];
        inherit (cfg) listenPort mtu privateKeyFile;
        peers = lib.mapAttrsToList (_: peer: {
          inherit (peer) publicKey endpoint;
          allowedIPs = [ "${peer.address}/32" ];
          persistentKeepalive = cfg.keepaliveSeconds;
        }) peers;
      };
      systemd.services."wireguard-${cfg.interface}" = lib.mkIf waitsForKeys {
        after = map keysOf roles;
        requires = map keysOf roles;
      };
    })
  ];
}
