# The flake's outputs with a nixpkgs that has its lib and otherwise only names: says in sentences what is missing. That each
# evaluates to something is seen on the way.
# `nixos` evaluates modules, with `pkgs` or with what is made of it; `package` makes a package of its name.
{
  lib,
  package,
  nixos,
  force,
  pkgs,
}:
let
  flake = import ../../flake.nix;
  systems = [
    "x86_64-linux"
    "aarch64-linux"
  ];
  # Builds nothing, and looks at everything that it would be built of, but for the files.
  builder = args: builtins.deepSeq (removeAttrs args [ "src" ]) (package (args.pname or "unnamed"));
  named = lib.genAttrs [
    "curl"
    "jq"
    "nixfmt"
    "nixfmt-tree"
    "nodejs"
    "openssl"
    "systemd"
    "traefik"
    "xfsprogs"
  ] package;
  packages = system: lib.fix (all: pkgs // named // functions system all);
  functions = system: all: {
    inherit lib;
    buildNpmPackage = builder;
    callPackage =
      file: given:
      let
        function = import file;
        argument = name: _: given.${name} or all.${name} or (package name);
      in
      function (lib.mapAttrs argument (lib.functionArgs function));
    importNpmLock = {
      npmConfigHook = package "npm-config-hook";
      __functor = _: builder;
    };
    mkShell = builder;
    path = "${builtins.storeDir}/nixpkgs";
    pkgsStatic.busybox = package "busybox";
    runCommand =
      name: args: script:
      builtins.deepSeq args (builtins.seq script (package name));
    rustPlatform.buildRustPackage = builder;
    stdenv = pkgs.stdenv // {
      hostPlatform = { inherit system; };
    };
    testers.runNixOSTest = test: builtins.seq test.testScript { inherit (test) name nodes; };
    writeShellScriptBin = name: text: builtins.seq text (package name);
  };
  nixpkgs = {
    lib = lib // {
      nixosSystem =
        { modules }:
        let
          inherit (nixos (packages "x86_64-linux") modules) config;
        in
        builtins.seq (force config) config.services.wisehosting.package;
    };
    legacyPackages = lib.genAttrs systems packages;
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
        "lint"
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
  missing = { of, names }: lib.filter (name: !of ? ${name}) names;

  # The machines of the scenarios, which all have the same, as the test driver makes them: what it adds is its own, and no
  # module may set an option of nixpkgs.
  driver = {
    options = {
      networking.primaryIPAddress = lib.mkOption { default = "198.51.100.1"; };
      specialisation = lib.mkOption { };
      virtualisation.diskSize = lib.mkOption { };
      virtualisation.memorySize = lib.mkOption { };
    };
  };
  inherit (self.checks.x86_64-linux.scenario-mesh) nodes;
  machine =
    name: more:
    (nixos (packages "x86_64-linux") [
      driver
      nodes.${name}
      { _module.args.nodes = lib.mapAttrs (name: _: machine name { }) nodes; }
      more
    ]).config;
  wrongMachine =
    name: more:
    let
      config = force (machine name more);
    in
    map (item: "the scenarios' ${name}: ${item.message}") (
      lib.filter (item: !item.assertion) config.assertions
    );
  wrongMachines =
    name:
    wrongMachine name { }
    ++ lib.concatMap (set: wrongMachine name set.configuration) (
      lib.attrValues (machine name { }).specialisation
    );
in
lib.concatMap wrongMachines (lib.attrNames nodes)
++ lib.concatLists (
  lib.mapAttrsToList (
    output: want:
    # Modules and overlays are functions, and of the rest each value is looked at.
    builtins.deepSeq want.of (map (name: "the flake has no ${output}.${name}") (missing want))
  ) wanted
)
