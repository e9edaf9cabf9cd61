# What the modules of the roles share: what a node runs, the types of values, the settings of a program, and how its unit
# is adopted.
{
  config,
  lib,
  pkgs,
}:
let
  inherit (lib) mkOption types;
  format = pkgs.formats.toml { };
  inherit (config.services.wisehosting) package mesh;

  # The type itself keeps a secret from being copied into the store, where everybody may read it.
  secretPath = types.pathWith {
    inStore = false;
    absolute = true;
  };

  # 32 bytes that look like a key. The build checks the configuration, and has no secrets.
  notASecret = "Zm9yLXRoZS1jaGVjay1hbG9uZS1ub3QtYS1zZWNyZXQ=";

  # Option settings -> the file, which exists only if the program takes it.
  checkedFile =
    {
      program,
      settings,
      credentials,
      environment ? { },
    }:
    let
      file = format.generate "${program}.toml" settings;
      canRun = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
      check = pkgs.runCommand "${program}-checked.toml" { env = environment; } ''
        mkdir credentials certificates
        for name in ${lib.escapeShellArgs (lib.attrNames credentials)}; do
          echo ${notASecret} >credentials/$name
        done
        CREDENTIALS_DIRECTORY=$PWD/credentials ${lib.getExe' package program} --config ${file} check-config
        cp ${file} $out
      '';
    in
    if canRun then check else file;
in
{
  # What of a node connects to the control plane.
  runsWorker = node: lib.elem "worker" node.roles;
  runsEdge = node: lib.elem "proxy" node.roles && node.edge;

  types = {
    inherit secretPath;

    ipv4 = types.strMatching "([0-9]{1,3}\\.){3}[0-9]{1,3}" // {
      description = "IPv4 address";
    };

    key = types.strMatching "[A-Za-z0-9+/]{43}=" // {
      description = "WireGuard key in base64";
    };
  };

  secret =
    file: description:
    mkOption {
      type = secretPath;
      default = "/var/lib/wisehosting-keys/${file}";
      example = "/run/secrets/${file}";
      description = "${description} A path outside of the Nix store; systemd hands the file to the program.";
    };

  settings =
    example:
    mkOption {
      type = types.submodule { freeformType = format.type; };
      default = { };
      inherit example;
      description = ''
        The configuration file, as docs/operating.md describes it. The other options set what follows from them; every
        setting can be changed here. The program itself checks the file when the system is built.
      '';
    };

  # A role's configuration from the file to the running unit.
  program =
    {
      # The program's and its unit's name.
      program,
      # Its file below /etc/wisehosting.
      file,
      settings,
      # Name of a credential -> the file that holds it.
      credentials,
      # Environment of the check alone, for paths that only a running system has.
      checkEnvironment ? { },
      path ? [ ],
      # What it needs beside CAP_NET_ADMIN, with which it makes the mesh interface.
      capabilities ? [ ],
      # Whether it changes the network even where NixOS makes that interface.
      changesNetwork ? false,
    }:
    let
      checked = checkedFile {
        inherit program settings credentials;
        environment = checkEnvironment;
      };
    in
    {
      environment.etc."wisehosting/${file}".source = checked;
      environment.systemPackages = [ package ];
      systemd.packages = [ package ];
      systemd.services.${program} = {
        wantedBy = [ "multi-user.target" ];
        restartTriggers = [ checked ];
        # Restarted at once, and its sockets not at all: who connects meanwhile waits.
        stopIfChanged = false;
        inherit path;
        serviceConfig = {
          # The empty one takes back the paths of the packaged unit.
          LoadCredential = [ "" ] ++ lib.mapAttrsToList (name: from: "${name}:${from}") credentials;
        }
        // lib.optionalAttrs (mesh.managedBy == "system" && !changesNetwork) {
          AmbientCapabilities = "";
          CapabilityBoundingSet = [ "" ] ++ capabilities;
        };
      };
    };

  # A packaged socket, on another address.
  socket = addresses: {
    wantedBy = [ "sockets.target" ];
    listenStreams = [ "" ] ++ addresses;
  };
}
