# The public door: ports 80 and 443, served by the edge itself or by Traefik.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.wisehosting) mesh node nodes;
  cfg = config.services.wisehosting.proxy;
  wise = import ./lib { inherit config lib pkgs; };
  agent = import ./lib/agent.nix { inherit config lib; };
  unit = "wisehosting-edge";
  runsEdge = cfg.ingress == "built-in" || cfg.gateway.enable;

  # What the edge tells a Traefik beside it.
  dynamicDirectory = "/var/lib/wisehosting-traefik";
  traefikFormat = pkgs.formats.toml { };
  # Apps may take a header X_Forwarded_For for the X-Forwarded-For that Traefik vouches for. Each Traefik refuses the options of a
  # later one.
  traefikVersion = lib.getVersion config.services.traefik.package;
  headers =
    if lib.versionAtLeast traefikVersion "3.7.12" then
      { aliasHeadersStrategy = lib.mkDefault "delete"; }
    else
      lib.optionalAttrs (lib.versionAtLeast traefikVersion "3.7.6") {
        underscoreHeadersStrategy = lib.mkDefault "delete";
      };
  entryPoints = {
    # Traefik refuses an empty table, too.
    web = lib.optionalAttrs (headers != { }) { http = headers; } // {
      address = lib.mkDefault ":${toString cfg.httpPort}";
    };
    websecure = {
      address = lib.mkDefault ":${toString cfg.httpsPort}";
      http = headers // {
        tls = { };
      };
    };
  };
in
{
  imports = [ ./mesh.nix ];

  options.services.wisehosting.proxy = {
    ingress = mkOption {
      type = types.enum [
        "built-in"
        "traefik"
      ];
      default = "built-in";
      example = "traefik";
      description = ''
        What serves visitors. `built-in`: the edge, to which routes are pushed, and which goes on with the last ones while
        the control plane is away. `traefik`: a Traefik, which brings its own certificates. With `gateway.enable` the edge
        runs beside it and writes the routes that it watches; else no edge runs, and it asks the control plane for them every
        second: the node has `edge = false` then.
      '';
    };

    httpPort = mkOption {
      type = types.port;
      default = 80;
      example = 8080;
      description = "Port for HTTP, opened in the firewall.";
    };

    httpsPort = mkOption {
      type = types.port;
      default = 443;
      example = 8443;
      description = "Port for HTTP over TLS, opened in the firewall.";
    };

    controlPlaneUrl = agent.urlOption;

    apiKeyFile = wise.secret "api.key" "Who this proxy is for the control plane, which knows its SHA-256.";

    certificatesDirectory = mkOption {
      type = wise.types.secretPath;
      default = "/var/lib/wisehosting-edge/certificates";
      example = "/var/lib/certificates";
      description = ''
        Holds pairs NAME.crt and NAME.key that the group `wisehosting-edge` can read. Changes are noticed. With Traefik it
        is not used.
      '';
    };

    acme = {
      termsAgreed = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether the edge orders certificates, and with that agrees to the terms of the certificate authority: Let's Encrypt,
          or another one by `settings.ingress.acme.directory`. With Traefik it is not used.
        '';
      };

      email = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "operator@example.org";
        description = "Whom the certificate authority may write to.";
      };

      publicAddresses = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "198.51.100.30" ];
        description = "The public addresses of all edges. If any is given, no certificate is ordered for a name that leads to any other.";
      };
    };

    gateway = {
      enable = lib.mkEnableOption "the edge's own API, for TCP and UDP forwards, and for routes of Traefik (docs/edge-api.md)";

      port = mkOption {
        type = types.port;
        default = 8082;
        example = 8090;
        description = "Port of the API at this host's address in the mesh, opened in the firewall for the mesh alone.";
      };

      tokenFile = wise.secret "gateway.token" "What requests to the API must show.";

      allowedTargets = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.60.0.0/16" ];
        description = "Networks behind the mesh interface, beside the mesh itself, that may be led to.";
      };
    };

    traefikEnvironmentFile = mkOption {
      type = types.nullOr wise.types.secretPath;
      default = null;
      example = "/run/secrets/traefik.env";
      description = ''
        With Traefik, if no edge runs beside it: a file with the line `WISEHOSTING_TRAEFIK_TOKEN=…`, the token that the control plane has in
        services.wisehosting.controlPlane.traefikTokenFile. A path outside of the Nix store.
      '';
    };

    traefikSettings = mkOption {
      type = types.submodule { freeformType = traefikFormat.type; };
      default = { };
      example = {
        certificatesResolvers.letsencrypt.acme = {
          email = "operator@example.org";
          storage = "/var/lib/traefik/acme.json";
          httpChallenge.entryPoint = "web";
        };
        entryPoints.websecure.http.tls.certResolver = "letsencrypt";
      };
      description = ''
        With Traefik: its static configuration. What makes it a proxy of the platform is set already, the entry points `web` and
        `websecure` and the provider of its routes; the rest, and above all who makes certificates, is to be given here.
      '';
    };

    settings = wise.settings { log.filter = "debug"; };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = agent.assertions "proxy" cfg ++ [
          {
            assertion = (nodes.${node}.edge or runsEdge) == runsEdge;
            message =
              if runsEdge then
                ''
                  An edge runs on this host, and the control plane would not let it connect: remove
                  services.wisehosting.nodes."${node}".edge = false.
                ''
              else
                ''
                  No edge runs on this host, and each deploy would wait for one: set services.wisehosting.nodes."${node}".edge = false
                  (in the example layout: in the file hosts/${node}/node.nix), or services.wisehosting.proxy.gateway.enable = true.
                '';
          }
        ];
        networking.firewall.allowedTCPPorts = [
          cfg.httpPort
          cfg.httpsPort
        ];
      }

      (lib.mkIf runsEdge {
        services.wisehosting.proxy.settings = {
          control_plane = {
            url = cfg.controlPlaneUrl;
            name = node;
          };
          state.dir = "/var/lib/wisehosting-edge";
          mesh = lib.mkIf (mesh.managedBy == "program") mesh.settings;
          gateway = lib.mkIf cfg.gateway.enable {
            listen = "${nodes.${node}.address}:${toString cfg.gateway.port}";
            interface = lib.mkIf (mesh.managedBy == "system") mesh.interface;
            allowed_targets =
              lib.optional (mesh.managedBy == "system") mesh.settings.address ++ cfg.gateway.allowedTargets;
          };
          log.format = lib.mkDefault "journald";
        };

        networking.firewall.interfaces.${mesh.interface}.allowedTCPPorts =
          lib.optional cfg.gateway.enable cfg.gateway.port;

        users.users.wisehosting-edge = {
          isSystemUser = true;
          group = "wisehosting-edge";
        };
        users.groups.wisehosting-edge = { };
      })

      (lib.mkIf runsEdge (
        wise.program {
          program = unit;
          file = "edge.toml";
          inherit (cfg) settings;
          credentials =
            agent.credentials cfg
            // lib.optionalAttrs cfg.gateway.enable { "gateway.token" = cfg.gateway.tokenFile; };
          changesNetwork = cfg.gateway.enable;
          checkEnvironment =
            if cfg.ingress == "built-in" then
              { WISEHOSTING_INGRESS__TLS__CERTIFICATES_DIR = "certificates"; }
            else
              { WISEHOSTING_INGRESS__TRAEFIK__DYNAMIC_DIR = "certificates"; };
        }
      ))

      (lib.mkIf (cfg.ingress == "built-in") {
        services.wisehosting.proxy.settings.ingress = {
          http = "0.0.0.0:${toString cfg.httpPort}";
          https = "0.0.0.0:${toString cfg.httpsPort}";
          tls.certificates_dir = cfg.certificatesDirectory;
          acme = lib.mkIf cfg.acme.termsAgreed {
            terms_agreed = true;
            email = lib.mkIf (cfg.acme.email != null) cfg.acme.email;
            public_addresses = cfg.acme.publicAddresses;
          };
        };
        # As packaging/tmpfiles.d has it. With the wrong owner of the first, systemd would give the edge the other, too.
        systemd.tmpfiles.rules = [
          "d /var/lib/wisehosting-edge 0750 wisehosting-edge wisehosting-edge"
          "d ${cfg.certificatesDirectory} 0750 root wisehosting-edge"
        ];
        systemd.sockets.wisehosting-edge-http = wise.socket [ (toString cfg.httpPort) ];
        systemd.sockets.wisehosting-edge-https = wise.socket [ (toString cfg.httpsPort) ];
      })

      (lib.mkIf (cfg.ingress == "traefik") {
        services.traefik.enable = true;
        services.wisehosting.proxy.traefikSettings = { inherit entryPoints; };
        # NixOS gives up on it for a day after five failures.
        systemd.services.traefik = {
          startLimitIntervalSec = lib.mkForce 0;
          serviceConfig.RestartSec = lib.mkDefault 2;
        };
      })

      (lib.mkIf (cfg.ingress == "traefik" && runsEdge) {
        services.wisehosting.proxy.settings.ingress.traefik.dynamic_dir = dynamicDirectory;
        systemd.tmpfiles.rules = [ "d ${dynamicDirectory} 0755 wisehosting-edge wisehosting-edge" ];
        systemd.services.${unit}.serviceConfig.ReadWritePaths = [ dynamicDirectory ];
        # Traefik has the ports.
        systemd.sockets.wisehosting-edge-http.enable = false;
        systemd.sockets.wisehosting-edge-https.enable = false;

        services.wisehosting.proxy.traefikSettings.providers = {
          providersThrottleDuration = lib.mkDefault "100ms";
          file.directory = dynamicDirectory;
        };
        # A file of one's own: NixOS would add a provider that cannot stand beside a directory.
        services.traefik.staticConfigFile = traefikFormat.generate "traefik.toml" cfg.traefikSettings;
      })

      (lib.mkIf (cfg.ingress == "traefik" && !runsEdge) {
        assertions = [
          {
            assertion = cfg.traefikEnvironmentFile != null;
            message = ''
              Traefik needs the control plane's token: write WISEHOSTING_TRAEFIK_TOKEN=… into a file, and name it in
              services.wisehosting.proxy.traefikEnvironmentFile.
            '';
          }
          {
            assertion = mesh.managedBy == "system";
            message = ''
              No program of ours runs beside Traefik that could make the mesh: set services.wisehosting.mesh.managedBy = "system".
            '';
          }
        ];
        services.wisehosting.mesh.managedBy = lib.mkDefault "system";

        services.wisehosting.proxy.traefikSettings.providers.http = {
          endpoint = "${cfg.controlPlaneUrl}/v1/traefik/proxy-config";
          pollInterval = lib.mkDefault "1s";
          headers.Authorization = "Bearer $WISEHOSTING_TRAEFIK_TOKEN";
        };
        services.traefik = {
          environmentFiles = lib.optional (cfg.traefikEnvironmentFile != null) cfg.traefikEnvironmentFile;
          staticConfigOptions = cfg.traefikSettings;
        };
      })
    ]
  );
}
