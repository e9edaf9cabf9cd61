# The programs build and start far enough to say who they are.
{ pkgs, self }:
let
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) wisehosting;
in
pkgs.runCommand "wisehosting-programs" { nativeBuildInputs = [ wisehosting ]; } ''
  for program in wisehosting wisehosting-control-plane wisehosting-worker wisehosting-edge; do
    $program --version
    $program --help >/dev/null
  done
  touch $out
''
