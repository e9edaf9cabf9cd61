# The flake's outputs with a nixpkgs that has its lib and otherwise only names: says in sentences what is missing. That each
# evaluates to something is seen on the way.
{ lib }:
let
  flake = import ../../flake.nix;
  systems = [
    "x86_64-linux"
    "aarch64-linux"
  ];
  pkgs = system: {
    inherit lib;
    callPackage = file: _: toString file;
    nixfmt = "nixfmt";
    nixfmt-tree = "nixfmt-tree";
    runCommand = name: _: script: builtins.seq script name;
    stdenv.hostPlatform.system = system;
    systemd = "systemd";
    testers.runNixOSTest = test: builtins.seq test.testScript test.name;
    traefik = "traefik";
  };
  nixpkgs = {
    lib = lib // {
      nixosSystem = { modules }: lib.length modules;
    };
    legacyPackages = lib.genAttrs systems pkgs;
  };
  self = flake.outputs { inherit self nixpkgs; } // {
    inputs = { inherit nixpkgs; };
    outPath = "${builtins.storeDir}/self";
  };

  # The check of the modules is what evaluates this; it needs all of NixOS.
  checks = system: removeAttrs self.checks.${system} [ "eval" ];
  folders = lib.attrNames (lib.filterAttrs (_: kind: kind == "directory") (builtins.readDir ../../hosts));
  scenarios = lib.remove "prelude.py" (
    lib.filter (lib.hasSuffix ".py") (lib.attrNames (builtins.readDir ../scenarios))
  );
  check = file: "scenario-${lib.replaceStrings [ "_" ] [ "-" ] (lib.removeSuffix ".py" file)}";

  wanted = {
    "nixosConfigurations" = {
      of = self.nixosConfigurations;
      names = folders;
    };
    "nixosModules" = {
      of = self.nixosModules;
      names = [
        "control-plane"
        "default"
        "mesh"
        "proxy"
        "worker"
      ];
    };
    "overlays" = {
      of = self.overlays;
      names = [ "default" ];
    };
  }
  // lib.mergeAttrsList (map ofSystem systems);
  ofSystem = system: {
    "packages.${system}" = {
      of = self.packages.${system};
      names = [
        "dashboard"
        "default"
        "traefik"
        "wisehosting"
      ];
    };
    "checks.${system}" = {
      of = checks system;
      names = map check scenarios ++ [
        "formatting"
        "programs"
        "units"
      ];
    };
    "devShells.${system}" = {
      of = self.devShells.${system};
      names = [ "default" ];
    };
    "formatter.${system}" = {
      of.formatter = self.formatter.${system};
      names = [ "formatter" ];
    };
  };
  missing = output: { of, names }: lib.filter (name: !of ? ${name}) names;
in
lib.concatLists (
  lib.mapAttrsToList (
    output: want:
    # Modules and overlays are functions, and of the rest each value is looked at.
    builtins.deepSeq want.of (map (name: "the flake has no ${output}.${name}") (missing output want))
  ) wanted
)
