# A worker: builds and runs apps in Podman, on its mesh address only.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.wisehosting) mesh node nodes;
  cfg = config.services.wisehosting.worker;
  wise = import ./lib { inherit config lib pkgs; };
  agent = import ./lib/agent.nix { inherit config lib; };

  # The bridges of all of Podman's networks, as the firewall in use writes it.
  containers = if config.networking.nftables.enable then "podman*" else "podman+";
in
{
  imports = [ ./mesh.nix ];

  options.services.wisehosting.worker = {
    apiKeyFile = wise.secret "api.key" "Who this worker is for the control plane, which knows its SHA-256.";

    controlPlaneUrl = agent.urlOption;

    ports = mkOption {
      type = types.strMatching "[0-9]{4,5}-[0-9]{4,5}";
      default = "20000-29999";
      example = "30000-30999";
      description = "Ports of the mesh address that apps are given.";
    };

    builds = mkOption {
      type = types.ints.between 1 64;
      default = 2;
      example = 4;
      description = "Builds at a time.";
    };

    buildMemoryBytes = mkOption {
      type = types.ints.between 67108864 1125899906842624;
      default = 2147483648;
      example = 4294967296;
      description = "Memory of one build step.";
    };

    storageDevice = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/dev/disk/by-label/containers";
      description = ''
        An XFS file system for images and containers, mounted so that it can hold quotas. With null they are on the file
        system of /var.
      '';
    };

    settings = wise.settings { log.filter = "debug"; };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = agent.assertions "worker" cfg ++ [
          {
            assertion = !(config.networking.nftables.enable && config.networking.nftables.flushRuleset);
            message = ''
              networking.nftables.flushRuleset would delete Podman's rules, and with them the way to every app, each time that the
              firewall is reloaded: set networking.nftables.flushRuleset = false.
            '';
          }
        ];

        services.wisehosting.worker.settings = {
          control_plane = {
            url = cfg.controlPlaneUrl;
            name = node;
          };
          worker = {
            inherit (nodes.${node}) address;
            inherit (cfg) ports builds;
            build_memory_bytes = cfg.buildMemoryBytes;
          };
          podman.socket = lib.mkDefault "/run/podman/podman.sock";
          mesh = lib.mkIf (mesh.managedBy == "program") mesh.settings;
          log.format = lib.mkDefault "journald";
        };

        virtualisation.podman.enable = true;

        systemd.slices.wisehosting_builds.sliceConfig = {
          MemoryMax = toString (cfg.builds * cfg.buildMemoryBytes);
        };

        # As packaging/sysctl.d has it.
        boot.kernel.sysctl = {
          "net.ipv4.conf.all.arp_notify" = lib.mkDefault 1;
          "net.ipv4.ip_forward" = lib.mkDefault 1;
          "fs.inotify.max_user_instances" = lib.mkDefault 1024;
        };
        boot.kernelModules = [
          "br_netfilter"
          "overlay"
          "veth"
        ];

        # Podman's name server, for the networks of builds and apps.
        networking.firewall.interfaces.${containers} = {
          allowedTCPPorts = [ 53 ];
          allowedUDPPorts = [ 53 ];
        };
      }

      (wise.program {
        program = "wisehosting-worker";
        file = "worker.toml";
        inherit (cfg) settings;
        credentials = agent.credentials cfg;
        path = [ pkgs.git ];
        capabilities = [
          "CAP_DAC_OVERRIDE"
          "CAP_KILL"
          "CAP_NET_ADMIN"
          "CAP_SYS_ADMIN"
        ];
      })

      (lib.mkIf (cfg.storageDevice != null) {
        fileSystems."/var/lib/containers" = {
          device = cfg.storageDevice;
          fsType = "xfs";
          options = [ "pquota" ];
        };
      })
    ]
  );
}
