# The public door. Put certificates as NAME.crt and NAME.key into /var/lib/wisehosting-edge/certificates.
{
  imports = [ ../common.nix ];

  services.wisehosting.proxy.enable = true;
}
