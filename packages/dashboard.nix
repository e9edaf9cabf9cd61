# The dashboard, as the files that the control plane embeds.
{
  lib,
  buildNpmPackage,
  cacert,
  importNpmLock,
  nodejs,
  runCommand,
}:
let
  inherit (lib) fileset;
  package = lib.importJSON ../web/package.json;
  lock = lib.importJSON ../web/package-lock.json;

  # The lock file names no registry, so that everyone may use their own: npm knows where to ask, and what comes is known by
  # its hash.
  fetch =
    path: module:
    let
      name = lib.last (lib.splitString "node_modules/" path);
    in
    runCommand "${baseNameOf name}-${module.version}.tgz"
      {
        nativeBuildInputs = [
          cacert
          nodejs
        ];
        impureEnvVars = lib.fetchers.proxyImpureEnvVars ++ [ "NPM_CONFIG_REGISTRY" ];
        outputHash = module.integrity;
        outputHashMode = "flat";
      }
      ''
        export HOME=$TMPDIR
        npm pack --ignore-scripts ${name}@${module.version}
        mv ./*.tgz $out
      '';
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
    packageLock = lock;
    packageSourceOverrides = lib.mapAttrs fetch (removeAttrs lock.packages [ "" ]);
  };
  inherit (importNpmLock) npmConfigHook;

  installPhase = ''
    runHook preInstall
    cp --recursive dist $out
    runHook postInstall
  '';
}
