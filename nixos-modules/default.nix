# All roles. A host enables its own.
{
  imports = [
    ./control-plane.nix
    ./mesh.nix
    ./proxy.nix
    ./worker.nix
  ];
}
