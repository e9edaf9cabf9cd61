# What the flake builds: the dashboard, and the programs with the dashboard inside.
{ pkgs }:
rec {
  default = wisehosting;
  dashboard = pkgs.callPackage ./dashboard.nix { };
  wisehosting = pkgs.callPackage ./wisehosting.nix { inherit dashboard; };
}
