# The modules and the hosts, evaluated with full NixOS. Nothing is built.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;

  # The least that NixOS wants of any host.
  base = {
    nixpkgs.hostPlatform = lib.mkOverride 900 system;
    system.stateVersion = lib.mkDefault "26.05";
    boot.loader.grub.enable = lib.mkDefault false;
    fileSystems."/" = lib.mkDefault {
      device = "/dev/vda";
      fsType = "ext4";
    };
  };
  evaluate =
    modules:
    self.inputs.nixpkgs.lib.nixosSystem {
      modules = [
        base
        self.nixosModules.default
      ]
      ++ modules;
    };
  toplevel = config: builtins.unsafeDiscardStringContext config.system.build.toplevel.drvPath;
  result = import ./eval {
    inherit lib evaluate;
    force = config: builtins.seq (toplevel config) config;
  };
in
pkgs.runCommand "wisehosting-eval" { failures = lib.concatLines result.failures; } ''
  printf '%s' "$failures" >&2
  [ -z "$failures" ]
  touch $out
''
