# Dashboard, REST API, agent hub, and Postgres. nginx speaks TLS in front of the dashboard.
{
  imports = [ ../common.nix ];

  services.wisehosting.controlPlane = {
    enable = true;
    baseUrl = "https://hosting.example.org";
    appsDomain = "apps.example.org";
  };

  services.nginx = {
    enable = true;
    recommendedProxySettings = true;
    recommendedTlsSettings = true;
    virtualHosts."hosting.example.org" = {
      enableACME = true;
      forceSSL = true;
      locations."/" = {
        proxyPass = "http://127.0.0.1:8081";
        proxyWebsockets = true;
      };
    };
  };
  security.acme.acceptTerms = true;
  security.acme.defaults.email = "you@example.org";
  networking.firewall.allowedTCPPorts = [
    80
    443
  ];
}
