# Every Nix file is as nixfmt would write it.
{ pkgs, self }:
pkgs.runCommand "wisehosting-nix-formatting" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
  find ${self} -name '*.nix' -print0 | xargs --null nixfmt --check
  touch $out
''
