# A larger worker: more builds at a time, and a disk of its own for images and containers.
{
  imports = [ ../common.nix ];

  services.wisehosting.worker = {
    enable = true;
    builds = 4;
    buildMemoryBytes = 4 * 1024 * 1024 * 1024;
    storageDevice = "/dev/disk/by-label/containers";
  };
}
