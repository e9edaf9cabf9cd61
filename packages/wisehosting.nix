# The four programs: wisehosting, wisehosting-control-plane, wisehosting-worker, wisehosting-edge.
{
  lib,
  rustPlatform,
  dashboard,
}:
let
  inherit (lib) fileset;
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = "wisehosting";
  inherit (manifest.workspace.package) version;

  src = fileset.toSource {
    root = ../.;
    fileset = fileset.unions [
      ../.sqlx
      ../Cargo.lock
      ../Cargo.toml
      ../crates
      ../examples
      ../migrations
      ../packaging
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "--workspace"
    "--bins"
    "--exclude=xtask"
  ];

  # Queries are checked against .sqlx; the dashboard is embedded from web/dist.
  env.SQLX_OFFLINE = "true";
  preBuild = ''
    mkdir web
    cp --recursive --no-preserve=mode ${dashboard} web/dist
  '';

  # The units name the programs where other distributions have them.
  postInstall = ''
    mkdir -p $out/lib/systemd $out/libexec
    cp --recursive packaging/systemd $out/lib/systemd/system
    cp --recursive packaging/{modules-load.d,sysctl.d,sysusers.d,tmpfiles.d} $out/lib/
    cp --recursive packaging/libexec $out/libexec/wisehosting
    substituteInPlace $out/lib/systemd/system/*.service \
      --replace-quiet /usr/bin/ $out/bin/ \
      --replace-quiet /usr/libexec/ $out/libexec/
  '';

  # They need root, network namespaces and Podman: `./dev test` runs them, outside of the sandbox.
  doCheck = false;

  meta = {
    description = "Your own platform on a handful of Linux machines";
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
    mainProgram = "wisehosting";
  };
}
