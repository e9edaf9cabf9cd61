# Everything that ./dev needs. ./dev enters this shell by itself where there is Nix and no Debian.
{
  mkShell,
  path,
  # To build.
  cargo,
  clippy,
  nodejs_22,
  pkg-config,
  rust-analyzer,
  rustc,
  rustfmt,
  # To run three hosts on one machine.
  aardvark-dns,
  crun,
  git,
  iptables,
  mmdebstrap,
  netavark,
  nftables,
  pkgsStatic,
  podman,
  postgresql,
  runc,
  slirp4netns,
  util-linux,
  # To test.
  cargo-deny,
  chromium,
  nix,
  pebble,
  shellcheck,
  systemd,
  # To compare with.
  caddy,
  haproxy,
  nginx,
  wrk,
}:
mkShell {
  packages = [
    cargo
    clippy
    nodejs_22
    pkg-config
    rust-analyzer
    rustc
    rustfmt

    aardvark-dns
    crun
    git
    iptables
    mmdebstrap
    netavark
    nftables
    podman
    postgresql
    runc
    slirp4netns
    util-linux

    cargo-deny
    chromium
    nix
    pebble
    shellcheck
    systemd

    caddy
    haproxy
    nginx
    wrk
  ];
  env = {
    WISEHOSTING_DEV_SHELL = "1";
    WISEHOSTING_NIXPKGS_LIB = "${toString path}/lib";
    # Not in PATH: it would hide the coreutils.
    WISEHOSTING_LAB_BUSYBOX = "${pkgsStatic.busybox}/bin/busybox";
  };
}
