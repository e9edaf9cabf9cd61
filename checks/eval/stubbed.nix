# The evaluation with nothing but a copy of nixpkgs' `lib`: NixOS's options are those of stubs.nix.
# The result, as JSON: what is wrong, how many cases there were, and the files that are rendered in them.
{ nixpkgsLib }:
let
  lib = import nixpkgsLib;

  package = name: {
    type = "derivation";
    inherit name;
    outPath = "${builtins.storeDir}/${name}";
    meta = { };
  };
  value =
    with lib.types;
    oneOf [
      bool
      int
      float
      str
      (attrsOf value)
      (listOf value)
    ];
  pkgs =
    lib.genAttrs [
      "git"
      "wireguard-tools"
      "wisehosting"
    ] package
    // {
      formats.toml = _: {
        type = value // {
          description = "TOML value";
        };
        generate = name: content: package name // { inherit content; };
      };
      runCommand =
        name: _: script:
        builtins.seq script (package name);
      stdenv.buildPlatform.canExecute = _: true;
      stdenv.hostPlatform = { };
    };

  nixos =
    pkgs: modules:
    lib.evalModules {
      modules = [
        ./stubs.nix
        { _module.args = { inherit pkgs; }; }
      ]
      ++ modules;
    };
  # Not our own options: some have no value where they are not used.
  force =
    config:
    let
      others = config // {
        services = removeAttrs config.services [ "wisehosting" ];
      };
    in
    builtins.deepSeq others config;

  # TOML, with every section as one inline table.
  inline =
    content:
    if lib.isAttrs content then
      "{ ${lib.concatStringsSep ", " (lib.mapAttrsToList pair content)} }"
    else if lib.isList content then
      "[${lib.concatMapStringsSep ", " inline content}]"
    else
      builtins.toJSON content;
  pair = name: content: "${builtins.toJSON name} = ${inline content}";
  toToml =
    settings: lib.concatStrings (lib.mapAttrsToList (name: content: pair name content + "\n") settings);

  files =
    name: config:
    let
      file =
        role: file: program:
        lib.optional (config.environment.etc ? "wisehosting/${file}") {
          inherit name program;
          text = toToml config.services.wisehosting.${role}.settings;
        };
    in
    file "controlPlane" "control-plane.toml" "wisehosting-control-plane"
    ++ file "worker" "worker.toml" "wisehosting-worker"
    ++ file "proxy" "edge.toml" "wisehosting-edge";

  result = import ./. {
    inherit lib force;
    evaluate = modules: nixos pkgs ([ ../../nixos-modules ] ++ modules);
  };
  flake = import ./flake.nix {
    inherit
      lib
      package
      nixos
      force
      ;
    pkgs = removeAttrs pkgs [ "wisehosting" ];
  };
in
{
  inherit (result) count;
  failures = result.failures ++ flake;
  files = lib.concatLists (lib.mapAttrsToList files result.configs);
}
