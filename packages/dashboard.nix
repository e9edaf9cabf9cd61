# The dashboard, as the files that the control plane embeds.
{
  lib,
  buildNpmPackage,
  importNpmLock,
  nodejs,
  runCommand,
}:
let
  inherit (lib) fileset;
  package = lib.importJSON ../web/package.json;
  lock = lib.importJSON ../web/package-lock.json;

  # The lock file names no registry, so that everyone may use their own; Nix must know where to fetch, so it asks npm.
  registry = lib.removeSuffix "/\n" (
    builtins.readFile (
      runCommand "npm-registry" { } "HOME=$TMPDIR ${nodejs}/bin/npm config get registry >$out"
    )
  );
  withAddress =
    path: module:
    let
      name = lib.last (lib.splitString "node_modules/" path);
      file = "${baseNameOf name}-${module.version}.tgz";
    in
    module // lib.optionalAttrs (path != "") { resolved = "${registry}/${name}/-/${file}"; };
in
buildNpmPackage {
  pname = package.name;
  inherit (package) version;

  src = fileset.toSource {
    root = ../web;
    fileset = fileset.difference ../web (
      fileset.unions [
        (fileset.maybeMissing ../web/dist)
        (fileset.maybeMissing ../web/node_modules)
      ]
    );
  };
  npmDeps = importNpmLock {
    npmRoot = ../web;
    packageLock = lock // {
      packages = lib.mapAttrs withAddress lock.packages;
    };
  };
  inherit (importNpmLock) npmConfigHook;

  installPhase = ''
    runHook preInstall
    cp --recursive dist $out
    runHook postInstall
  '';
}
