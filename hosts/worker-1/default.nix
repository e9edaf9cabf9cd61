# A worker with everything as it comes.
{
  imports = [ ../common.nix ];

  services.wisehosting.worker.enable = true;
}
