# The control plane: dashboard, REST API, agent hub and scheduler, with Postgres beside it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services.wisehosting) mesh node nodes;
  cfg = config.services.wisehosting.controlPlane;
  wise = import ./lib { inherit config lib pkgs; };
  unit = "wisehosting-control-plane";

  # Agents whose keys are known. The others' hosts warn about it.
  agents = runs: lib.filterAttrs (_: node: runs node && node.apiKeySha256 != null) nodes;
  agent = name: agent: {
    inherit name;
    inherit (agent) address;
    api_key_sha256 = agent.apiKeySha256;
  };
  worker =
    name: node:
    agent name node
    // lib.optionalAttrs (node.memoryBytes != null) { memory_bytes = node.memoryBytes; }
    // lib.optionalAttrs (node.cpuMillis != null) { cpu_millis = node.cpuMillis; };

  # Declared hosts have the next key in their files; nodes that have joined hear of it from the program.
  nextKey = nodes.${node}.nextPublicKey or null;
  withNextKey =
    settings:
    if settings ? join && nextKey != null then
      settings
      // {
        join = {
          next_public_key = nextKey;
        }
        // settings.join;
      }
    else
      settings;

  hasPassword = cfg.database.passwordFile != null;
  credentials = {
    "secrets.jwt_secret" = cfg.jwtSecretFile;
    "secrets.master_key" = cfg.masterKeyFile;
    "secrets.traefik_token" = cfg.traefikTokenFile;
  }
  // lib.optionalAttrs (mesh.managedBy == "program") { "mesh.private_key" = mesh.privateKeyFile; }
  // lib.optionalAttrs hasPassword { "database.password" = cfg.database.passwordFile; };
in
{
  imports = [ ./mesh.nix ];

  options.services.wisehosting.controlPlane = {
    listen = mkOption {
      type = types.strMatching "(\\[[0-9a-f:]+]|[0-9.]+):[0-9]{1,5}";
      default = "127.0.0.1:8081";
      example = "[::1]:8081";
      description = "Where the dashboard and the REST API listen, behind a front that speaks TLS.";
    };

    baseUrl = mkOption {
      type = types.strMatching "https?://[^/]+/?";
      example = "https://hosting.example.org";
      description = "How browsers reach the dashboard.";
    };

    appsDomain = mkOption {
      type = types.str;
      example = "apps.example.org";
      description = "An app is served at its name below this domain, whose wildcard record leads to the proxies.";
    };

    internalPort = mkOption {
      type = types.port;
      default = 8081;
      example = 8082;
      description = "Port for workers and proxies, at this host's address in the mesh only.";
    };

    database = {
      createLocally = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Whether to run Postgres on this host, with a database and a role for the control plane alone.";
      };
      url = mkOption {
        type = types.str;
        default = "postgres://wisehosting@localhost/wisehosting?host=/run/postgresql";
        example = "postgres://wisehosting@db.example.org/wisehosting?sslmode=verify-full";
        description = "The database, without a password.";
      };
      passwordFile = mkOption {
        type = types.nullOr wise.types.secretPath;
        default = null;
        example = "/run/secrets/database.password";
        description = "The password of the database's user, if it needs one. A path outside of the Nix store.";
      };
    };

    jwtSecretFile = wise.secret "jwt.secret" "Signs the tokens that agents connect with.";
    masterKeyFile = wise.secret "master.key" "Seals the secrets of users in the database; older keys follow on lines of their own.";
    traefikTokenFile = wise.secret "traefik.token" "What a Traefik must send to read its configuration.";

    backup = {
      enable = mkOption {
        type = types.bool;
        default = cfg.database.createLocally;
        defaultText = lib.literalExpression "config.services.wisehosting.controlPlane.database.createLocally";
        example = false;
        description = "Whether to write the database and its keys to /var/lib/wisehosting-backup by a timer.";
      };
      startAt = mkOption {
        type = types.str;
        default = "*-*-* 03:17:00";
        example = "hourly";
        description = "When, as {manpage}`systemd.time(7)` writes it.";
      };
      keepDays = mkOption {
        type = types.ints.positive;
        default = 14;
        example = 30;
        description = "Days after which a backup is removed.";
      };
    };

    settings = wise.settings { log.filter = "debug"; } // {
      apply = withNextKey;
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = cfg.database.createLocally -> !hasPassword;
            message = ''
              services.wisehosting.controlPlane.database.passwordFile is set, and Postgres on this host asks for none: remove it,
              or set services.wisehosting.controlPlane.database.createLocally = false.
            '';
          }
          {
            # As the program refuses it; but its file would be in the store by then.
            assertion =
              builtins.match "[^:]*://([^/]*:[^/]*@.*|[^?]*[?](.*&)?password=.*)" cfg.settings.database.url == null;
            message = ''
              services.wisehosting.controlPlane.database.url has a password in it, which everybody on this host could read in the Nix
              store: write it to a file, and name that in services.wisehosting.controlPlane.database.passwordFile.
            '';
          }
          {
            assertion = cfg.backup.enable -> cfg.database.createLocally;
            message = ''
              The backup reads the Postgres of this host: set services.wisehosting.controlPlane.backup.enable = false, and back
              up the other database where it is.
            '';
          }
          {
            assertion =
              !(lib.hasPrefix "0.0.0.0:" cfg.listen && lib.hasSuffix ":${toString cfg.internalPort}" cfg.listen);
            message = ''
              services.wisehosting.controlPlane.listen takes port ${toString cfg.internalPort} of every address, the mesh's too, where agents
              connect: choose another port there, or another internalPort.
            '';
          }
        ];

        services.wisehosting.controlPlane.settings = {
          public.listen = cfg.listen;
          public.base_url = lib.mkDefault cfg.baseUrl;
          internal.listen = "${nodes.${node}.address}:${toString cfg.internalPort}";
          database.url = cfg.database.url;
          database.password_file = lib.mkIf hasPassword "/run/credentials/${unit}.service/database.password";
          secrets = { };
          apps.domain = lib.mkDefault cfg.appsDomain;
          workers = lib.mapAttrsToList worker (agents wise.runsWorker);
          edges = lib.mapAttrsToList agent (agents wise.runsEdge);
          mesh = lib.mkIf (mesh.managedBy == "program") mesh.settings;
          log.format = lib.mkDefault "journald";
        };

        users.users.wisehosting = {
          isSystemUser = true;
          group = "wisehosting";
        };
        users.groups.wisehosting = { };

        systemd.sockets.${unit} = wise.socket [ cfg.listen ];
        networking.firewall.interfaces.${mesh.interface}.allowedTCPPorts = [ cfg.internalPort ];
      }

      (wise.program {
        program = unit;
        file = "control-plane.toml";
        inherit (cfg) settings;
        inherit credentials;
        checkEnvironment = lib.optionalAttrs hasPassword {
          WISEHOSTING_DATABASE__PASSWORD_FILE = "credentials/database.password";
        };
      })

      (lib.mkIf cfg.database.createLocally {
        services.postgresql = {
          enable = true;
          ensureDatabases = [ "wisehosting" ];
          ensureUsers = [
            {
              name = "wisehosting";
              ensureDBOwnership = true;
            }
          ];
        };
      })

      (lib.mkIf cfg.backup.enable {
        systemd.services.wisehosting-backup = {
          path = [ config.services.postgresql.package ];
          environment.WISEHOSTING_BACKUP_DAYS = toString cfg.backup.keepDays;
          serviceConfig.LoadCredential = [
            ""
          ]
          ++ lib.mapAttrsToList (name: from: "${name}:${from}") credentials;
        };
        systemd.timers.wisehosting-backup = {
          wantedBy = [ "timers.target" ];
          timerConfig.OnCalendar = [
            ""
            cfg.backup.startAt
          ];
        };
      })
    ]
  );
}
