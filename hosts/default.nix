# One folder a host: node.nix is what the others must know of it, default.nix its NixOS configuration. To add a host is to
# add a folder: everybody else's peers, and the control plane's list of agents, are made from all of the node.nix.
{ lib }:
let
  folders = lib.filterAttrs (_: kind: kind == "directory") (builtins.readDir ./.);
  nodes = lib.mapAttrs (name: _: import (./. + "/${name}/node.nix")) folders;
in
lib.mapAttrs (name: _: {
  imports = [ (./. + "/${name}") ];
  networking.hostName = name;
  services.wisehosting = { inherit nodes; };
}) folders
