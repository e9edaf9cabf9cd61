# The hosts of the platform, as data. Every host knows all of them, and what its role needs of them follows: the peers of
# its mesh, and on the control plane the agents that may connect.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.wisehosting;
  wise = import ./lib { inherit config lib pkgs; };

  node = types.submodule {
    options = {
      roles = mkOption {
        type = types.nonEmptyListOf (
          types.enum [
            "control-plane"
            "worker"
            "proxy"
          ]
        );
        example = [ "worker" ];
        description = "What the host is for: one of these, or the control plane and one other.";
      };
      address = mkOption {
        type = wise.types.ipv4;
        example = "10.50.0.11";
        description = "Its address in the mesh.";
      };
      publicKey = mkOption {
        type = types.nullOr wise.types.key;
        default = null;
        example = "qPjwNZz0dVuxRKGr8W6n3m8UWBWAXQWxPcBCfTMy1lQ=";
        description = ''
          Its WireGuard key, as `journalctl --unit 'wisehosting-keys@*'` tells on the host. Without one it is no peer of
          the others yet.
        '';
      };
      nextPublicKey = mkOption {
        type = types.nullOr wise.types.key;
        default = null;
        example = "rTTfjV0f4zJ7lh5+7Dy0WlIGQCqbxNXe+tV3rTtPNjM=";
        description = ''
          The WireGuard key that it changes to: the others reach it by the one of the two that it used last. The control plane
          tells nodes that have joined of its own. Not known to an interface that the system makes.
        '';
      };
      endpoint = mkOption {
        type = types.nullOr (types.strMatching ".+:[0-9]{1,5}");
        default = null;
        example = "198.51.100.11:51821";
        description = "Where the other hosts reach it: address and UDP port. Without one, it must speak first.";
      };
      apiKeySha256 = mkOption {
        type = types.nullOr (types.strMatching "[0-9a-f]{64}");
        default = null;
        example = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        description = ''
          SHA-256 of its API key, told beside its public key. Without it, the control plane lets no such worker or proxy
          connect.
        '';
      };
      edge = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether an edge runs on a proxy: each deploy waits for all of them. Say false where a Traefik asks the control plane
          for its routes by itself, and needs no API key.
        '';
      };
      memoryBytes = mkOption {
        type = types.nullOr types.ints.positive;
        default = null;
        example = 8589934592;
        description = "Memory that apps may take of a worker; all that it reports, if null.";
      };
      cpuMillis = mkOption {
        type = types.nullOr types.ints.positive;
        default = null;
        example = 4000;
        description = "Processor time that apps may take of a worker, in thousandths of a core; all of it, if null.";
      };
    };
  };

  roles = {
    control-plane = cfg.controlPlane.enable;
    worker = cfg.worker.enable;
    proxy = cfg.proxy.enable;
  };
  enabled = lib.filter (role: roles.${role}) (lib.attrNames roles);
  self = cfg.nodes.${cfg.node} or null;
  controlPlanes = lib.attrNames (
    lib.filterAttrs (_: node: lib.elem "control-plane" node.roles) cfg.nodes
  );
  # Of one name, address and API key, the control plane takes one agent.
  ofTwoAgents = lib.attrNames (
    lib.filterAttrs (_: node: wise.runsWorker node && wise.runsEdge node) cfg.nodes
  );
  addresses = lib.mapAttrsToList (_: node: node.address) cfg.nodes;
  addressOfTwo = lib.filter (address: lib.count (other: other == address) addresses > 1) addresses;
  connects = node: wise.runsWorker node || wise.runsEdge node;
  unfinished = lib.filterAttrs (
    _: node: node.publicKey == null || (connects node && node.apiKeySha256 == null)
  ) cfg.nodes;
in
{
  options.services.wisehosting = {
    package = lib.mkPackageOption pkgs "wisehosting" {
      example = [
        "pkgsMusl"
        "wisehosting"
      ];
    };

    node = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      example = "worker-1";
      description = "Which of the nodes this host is.";
    };

    nodes = mkOption {
      type = types.attrsOf node;
      default = { };
      example = {
        control-plane-1 = {
          roles = [ "control-plane" ];
          address = "10.50.0.1";
          publicKey = "qPjwNZz0dVuxRKGr8W6n3m8UWBWAXQWxPcBCfTMy1lQ=";
          endpoint = "198.51.100.1:51821";
        };
      };
      description = "The hosts of the platform by name, this one too. The same on every host.";
    };
  };

  config = lib.mkIf (enabled != [ ]) {
    assertions = [
      {
        assertion = self != null;
        message = ''
          This host is not among services.wisehosting.nodes: add services.wisehosting.nodes."${cfg.node}" (in the example
          layout: the file hosts/${cfg.node}/node.nix), or set services.wisehosting.node to the name that it has there.
        '';
      }
      {
        assertion = lib.length controlPlanes == 1;
        message = ''
          services.wisehosting.nodes must have one node with roles = [ "control-plane" ], and has ${toString (lib.length controlPlanes)}:
          ${lib.concatStringsSep ", " controlPlanes}.
        '';
      }
      {
        assertion = self == null || lib.naturalSort self.roles == lib.naturalSort enabled;
        message = ''
          services.wisehosting.nodes."${cfg.node}".roles are ${lib.concatStringsSep ", " self.roles}, and this host enables
          ${lib.concatStringsSep ", " enabled}: change the roles, or enable the modules of those roles and no others.
        '';
      }
      {
        assertion = ofTwoAgents == [ ];
        message = ''
          The control plane takes a host as a worker or as a proxy, and ${lib.concatStringsSep ", " ofTwoAgents} of services.wisehosting.nodes
          has both roles: give one of them to another host.
        '';
      }
      {
        assertion = addressOfTwo == [ ];
        message = ''
          Two of services.wisehosting.nodes have the address ${lib.concatStringsSep ", " (lib.unique addressOfTwo)}: give each its own.
        '';
      }
    ];
    warnings = lib.mapAttrsToList (name: _: ''
      services.wisehosting.nodes."${name}" is not complete: read its publicKey and apiKeySha256 on that host with
      `journalctl --unit 'wisehosting-keys@*'`, write them down, and rebuild the hosts that talk to it.
    '') unfinished;
  };
}
