# The NixOS options that our modules and hosts set, with their types, for evaluation without nixpkgs' NixOS.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  of = type: default: mkOption { inherit type default; };
  required = type: mkOption { inherit type; };
  bool = of types.bool false;
  strings = of (types.listOf types.str) [ ];
  ports = of (types.listOf types.port) [ ];
  any = of types.anything { };
  named = options: of (types.attrsOf (types.submodule { inherit options; })) { };

  openPorts = {
    allowedTCPPorts = ports;
    allowedUDPPorts = ports;
  };
  scalar = types.oneOf [
    types.bool
    types.int
    types.str
    types.path
  ];
  section = of (types.attrsOf (types.either scalar (types.listOf scalar))) { };
  unit = {
    after = strings;
    requires = strings;
    wants = strings;
    wantedBy = strings;
  };
in
{
  options = {
    assertions = of (types.listOf types.unspecified) [ ];
    warnings = strings;

    boot.kernelModules = strings;
    boot.kernel.sysctl = of (types.attrsOf scalar) { };
    boot.loader.systemd-boot.enable = bool;
    boot.loader.efi.canTouchEfiVariables = bool;

    environment.etc = named { source = required types.path; };
    environment.systemPackages = of (types.listOf types.package) [ ];

    fileSystems = named {
      device = required types.str;
      fsType = required types.str;
      options = of (types.listOf types.str) [ "defaults" ];
    };

    networking.hostName = of types.str "nixos";
    networking.firewall = openPorts // {
      interfaces = named openPorts;
    };
    networking.nftables.enable = bool;
    networking.nftables.flushRuleset = bool;
    networking.wireguard.useNetworkd = bool;
    networking.wireguard.interfaces = named {
      ips = strings;
      listenPort = of (types.nullOr types.int) null;
      mtu = of (types.nullOr types.int) null;
      privateKeyFile = of (types.nullOr types.str) null;
      peers = of (types.listOf (
        types.submodule {
          options = {
            publicKey = required types.singleLineStr;
            endpoint = of (types.nullOr types.str) null;
            allowedIPs = required (types.listOf types.str);
            persistentKeepalive = of (types.nullOr types.int) null;
          };
        }
      )) [ ];
    };

    nix.settings = any;
    nixpkgs.hostPlatform = of types.str "x86_64-linux";
    security.acme = any;

    services.nginx = any;
    services.openssh = any;
    services.postgresql = {
      enable = bool;
      package = of types.package {
        type = "derivation";
        outPath = "${builtins.storeDir}/postgresql";
      };
      ensureDatabases = strings;
      ensureUsers = of (types.listOf (
        types.submodule {
          options = {
            name = required types.str;
            ensureDBOwnership = bool;
          };
        }
      )) [ ];
    };
    services.traefik = {
      enable = bool;
      package = of types.package {
        type = "derivation";
        outPath = "${builtins.storeDir}/traefik";
        version = "3.7.9";
      };
      environmentFiles = of (types.listOf types.path) [ ];
      staticConfigOptions = any;
      staticConfigFile = of (types.nullOr types.unspecified) null;
    };

    system.stateVersion = of types.str "26.05";
    systemd.packages = of (types.listOf types.package) [ ];
    systemd.services = named (
      unit
      // {
        enable = of types.bool true;
        environment = of (types.attrsOf types.str) { };
        overrideStrategy = of (types.enum [
          "asDropinIfExists"
          "asDropin"
        ]) "asDropinIfExists";
        path = of (types.listOf types.package) [ ];
        restartTriggers = of (types.listOf types.unspecified) [ ];
        serviceConfig = section;
        startLimitIntervalSec = of types.int 10;
        stopIfChanged = of types.bool true;
      }
    );
    systemd.slices = named { sliceConfig = section; };
    systemd.sockets = named (
      unit
      // {
        enable = of types.bool true;
        listenStreams = strings;
      }
    );
    systemd.timers = named (unit // { timerConfig = section; });
    systemd.tmpfiles.rules = strings;

    time.timeZone = of (types.nullOr types.str) null;
    users.groups = named { };
    users.users = named {
      isSystemUser = bool;
      group = of types.str "";
      openssh = any;
    };
    virtualisation.podman.enable = bool;
  };
}
