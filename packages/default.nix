# What the flake builds: the dashboard, and the programs with the dashboard inside. And nixpkgs' Traefik, which can be a
# proxy's ingress.
{ pkgs }:
rec {
  default = wisehosting;
  dashboard = pkgs.callPackage ./dashboard.nix { };
  inherit (pkgs) traefik;
  wisehosting = pkgs.callPackage ./wisehosting.nix { inherit dashboard; };
}
