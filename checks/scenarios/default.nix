# Each script of this folder as a test of four NixOS machines. checks/vm runs the same scripts where there is no Nix.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  scripts = lib.filterAttrs (
    name: _: lib.hasSuffix ".py" name && name != "prelude.py"
  ) (builtins.readDir ./.);

  # What the scenarios' commands need beside what the roles bring.
  node =
    name:
    {
      nodes,
      pkgs,
      lib,
      ...
    }:
    let
      platform = import ./machines.nix {
        inherit lib;
        endpoint = name: nodes.${name}.networking.primaryIPAddress;
      };
      declare = pkgs.writeShellScriptBin "declare-nodes" ''
        exec /run/booted-system/specialisation/$1/bin/switch-to-configuration test
      '';
    in
    {
      imports = [
        self.nixosModules.default
        platform.machines.${name}
      ];
      virtualisation.memorySize = 1536;
      virtualisation.diskSize = 4096;
      environment.systemPackages = [
        declare
        (pkgs.writeShellScriptBin "install-programs" "") # a rebuild has done it
        pkgs.curl
        pkgs.git
        pkgs.jq
        pkgs.openssl
        pkgs.pkgsStatic.busybox
        pkgs.xfsprogs
      ];
      specialisation = lib.mapAttrs (_: declared: {
        configuration.services.wisehosting.nodes = declared // {
          ${name} = platform.sets.all.${name};
        };
      }) platform.sets;
    };

  test =
    file:
    pkgs.testers.runNixOSTest {
      name = "wisehosting-${lib.removeSuffix ".py" file}";
      nodes = lib.genAttrs [ "control-plane-1" "worker-1" "worker-2" "proxy-1" ] node;
      # The machines' names come from the driver, and what the prelude has is not used by all.
      skipLint = true;
      skipTypeCheck = true;
      testScript = ''
        EXAMPLES = "${../../examples}"
        ${builtins.readFile ./prelude.py}
        ${builtins.readFile (./. + "/${file}")}
      '';
    };
in
lib.mapAttrs' (file: _: {
  name = "scenario-${lib.replaceStrings [ "_" ] [ "-" ] (lib.removeSuffix ".py" file)}";
  value = test file;
}) scripts
