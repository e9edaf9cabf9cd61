# One check a file: every other .nix file of this folder is one, under its own name; and so is every scenario.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  isCheck = name: kind: kind == "regular" && lib.hasSuffix ".nix" name && name != "default.nix";
  files = lib.filterAttrs isCheck (builtins.readDir ./.);
in
lib.mapAttrs' (name: _: {
  name = lib.removeSuffix ".nix" name;
  value = import (./. + "/${name}") { inherit pkgs self; };
}) files
// import ./scenarios { inherit pkgs self; }
