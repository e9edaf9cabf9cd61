# No Nix file has what lint.mjs finds.
{ pkgs, self }:
pkgs.runCommand "wisehosting-nix-lint" { nativeBuildInputs = [ pkgs.nodejs ]; } ''
  find ${self} -name '*.nix' -print0 | xargs --null node ${./lint.mjs}
  touch $out
''
