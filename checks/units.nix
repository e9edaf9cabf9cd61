# The unit files, as packaging/check looks at them where there is no Nix.
{ pkgs, self }:
let
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) wisehosting;
in
pkgs.runCommand "wisehosting-units" { nativeBuildInputs = [ pkgs.systemd ]; } ''
  for unit in ${wisehosting}/lib/systemd/system/*.service; do
    most=$(sed -n 's/^X-ExposureMax=//p' $unit)
    systemd-analyze security --offline=true --threshold=''${most:-20} $unit >report || {
      cat report
      exit 1
    }
  done
  touch $out
''
