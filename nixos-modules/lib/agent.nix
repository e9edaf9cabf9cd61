# What workers and proxies have in common: they connect to the control plane with an API key.
{ config, lib }:
let
  inherit (config.services.wisehosting) mesh nodes;
  controlPlanes = lib.filter (node: lib.elem "control-plane" node.roles) (lib.attrValues nodes);
in
{
  urlOption = lib.mkOption {
    type = lib.types.str;
    default = if controlPlanes == [ ] then "" else "http://${(lib.head controlPlanes).address}:8081";
    defaultText = lib.literalMD "port 8081 of the control plane's mesh address";
    example = "http://10.50.0.1:8081";
    description = "Base of the control plane's internal API, at its address in the mesh.";
  };

  assertions = role: cfg: [
    {
      assertion = cfg.controlPlaneUrl != "";
      message = ''
        services.wisehosting.${role}.controlPlaneUrl is not known: add the control plane to services.wisehosting.nodes.
      '';
    }
  ];

  # Name of a credential -> the file that holds it.
  credentials =
    cfg:
    {
      "control_plane.api_key" = cfg.apiKeyFile;
    }
    // lib.optionalAttrs (mesh.managedBy == "program") {
      "mesh.private_key" = mesh.privateKeyFile;
    };
}
