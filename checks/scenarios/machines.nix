# The machines of the scenarios as NixOS modules, by name. The keys are of these machines alone, and secret to nobody.
# `declare-nodes NAME` takes a machine from one set of declared nodes to another, as a rebuild would; checks/vm has the same.
# `endpoint`: name of a machine -> the address at which the others reach it.
{ lib, endpoint }:
let
  roles = {
    control-plane-1 = {
      role = "control-plane";
      address = "10.50.0.1";
      publicKey = "BNIyXa7/7mTY49cg/nLxRcllDtKWwo8uqVs8fpW6xiY=";
      privateKey = "Y29udHJvbC1wbGFuZS0xLW9mLWEtdGVzdC1hbmQtb2Y=";
      module = {
        services.wisehosting.controlPlane = {
          enable = true;
          baseUrl = "https://hosting.example.org";
          appsDomain = "apps.example.org";
          settings.join = {
            pool = "10.50.0.128/25";
            endpoint = "${endpoint "control-plane-1"}:51821";
          };
        };
        # The repositories that the scenarios serve, and in one of them the dashboard's front.
        networking.firewall.allowedTCPPorts = [
          3000
          8443
        ];
      };
    };
    worker-1 = {
      role = "worker";
      address = "10.50.0.11";
      publicKey = "jq8rFdNj0pwOGXYu7c0heiie4iTnKTBERmTTxy60wVs=";
      privateKey = "d29ya2VyLTEtb2YtYS10ZXN0LWFuZC1vZi1ub3RoaW4=";
      module = {
        services.wisehosting.worker.enable = true;
        # What a scenario forwards to.
        networking.firewall.interfaces.wh0.allowedTCPPorts = [ 20999 ];
      };
    };
    worker-2 = {
      role = "worker";
      address = "10.50.0.12";
      publicKey = "blD0XTNJbnTFLsRZ8ySPVBjcfTNdjaZUSAFcp6plxSs=";
      privateKey = "d29ya2VyLTItb2YtYS10ZXN0LWFuZC1vZi1ub3RoaW4=";
      module.services.wisehosting.worker.enable = true;
    };
    proxy-1 = {
      role = "proxy";
      address = "10.50.0.30";
      publicKey = "84h2L0pYuDkmrH8eX8j+aXOuw0RtoofN2VrcXkxjnCo=";
      privateKey = "cHJveHktMS1vZi1hLXRlc3QtYW5kLW9mLW5vdGhpbmc=";
      module.services.wisehosting.proxy = {
        enable = true;
        gateway.enable = true;
      };
    };
  };
  apiKey = name: builtins.hashString "sha256" "API key of ${name}";
  node =
    name:
    {
      role,
      address,
      publicKey,
      ...
    }:
    {
      inherit address publicKey;
      roles = [ role ];
      endpoint = "${endpoint name}:51821";
      apiKeySha256 = if role == "control-plane" then null else builtins.hashString "sha256" (apiKey name);
    };
  nodes = lib.mapAttrs node roles;
  sets = {
    all = nodes;
    without-worker-2 = removeAttrs nodes [ "worker-2" ];
  };

  machine = name: own: {
    imports = [ own.module ];
    networking.hostName = name;
    # A worker that is not declared knows itself all the same.
    services.wisehosting.nodes = lib.mkDefault (sets.without-worker-2 // { ${name} = nodes.${name}; });
    systemd.tmpfiles.rules =
      let
        secret = file: content: "f /var/lib/wisehosting-keys/${file} 0600 root root - ${content}";
      in
      [
        "d /var/lib/wisehosting-keys 0700 root root"
        (secret "mesh.key" own.privateKey)
      ]
      ++ lib.optional (own.role != "control-plane") (secret "api.key" (apiKey name));
  };
in
{
  machines = lib.mapAttrs machine roles;
  inherit sets;
}
