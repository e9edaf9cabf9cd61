{
  description = "WiseHosting: your own platform on a handful of Linux machines";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      inherit (nixpkgs) lib;
      eachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      # A module, with the programs that this flake builds. Not by the overlay: the tests of NixOS, and whoever gives a host
      # its `pkgs`, let no module change them.
      withPackage = module: {
        imports = [
          module
          programs
        ];
      };
      programs =
        { pkgs, ... }:
        let
          inherit (pkgs.stdenv.hostPlatform) system;
        in
        {
          key = "wisehosting-programs"; # a host may import several of the modules
          services.wisehosting.package = lib.mkDefault self.packages.${system}.wisehosting;
        };
      host =
        module:
        lib.nixosSystem {
          modules = [
            self.nixosModules.default
            module
          ];
        };
    in
    {
      packages = eachSystem (pkgs: import ./packages { inherit pkgs; });
      overlays.default = final: _: { inherit (import ./packages { pkgs = final; }) wisehosting; };
      nixosModules = lib.mapAttrs (_: withPackage) {
        control-plane = ./nixos-modules/control-plane.nix;
        default = ./nixos-modules;
        mesh = ./nixos-modules/mesh.nix;
        proxy = ./nixos-modules/proxy.nix;
        worker = ./nixos-modules/worker.nix;
      };
      nixosConfigurations = lib.mapAttrs (_: host) (import ./hosts { inherit lib; });
      devShells = eachSystem (pkgs: {
        default = pkgs.callPackage ./packages/shell.nix { };
      });
      checks = eachSystem (pkgs: import ./checks { inherit pkgs self; });
      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
