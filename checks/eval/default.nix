# Evaluates each case, and each host of hosts/, and says in sentences what is not as it should be.
# `evaluate` makes { config, options } of modules: with full NixOS in ../eval.nix, with stubs.nix in stubbed.nix. `force`
# gives back a configuration that is evaluated as far as it can be.
{
  lib,
  evaluate,
  force,
}:
let
  cases = import ./cases.nix { inherit lib; };
  scenarios = import ../scenarios/machines.nix {
    inherit lib;
    endpoint = _: "198.51.100.1";
  };
  hosts =
    import ../../hosts { inherit lib; }
    // lib.mapAttrs' (name: lib.nameValuePair "scenarios-${name}") scenarios.machines;
  packaged = lib.attrNames (builtins.readDir ../../packaging/systemd);

  failedAssertions =
    config: map (item: item.message) (lib.filter (item: !item.assertion) config.assertions);

  # Every case says one of three things: that its values are refused, which assertions fire, or what the result is like.
  judge =
    name: case:
    map (sentence: "${name}: ${sentence}") (
      if case ? refused then
        judgeRefused case results.${name}
      else if case ? fires then
        judgeAssertions case results.${name}
      else
        judgeResult case results.${name}
    );

  judgeRefused =
    case: result:
    let
      attempt = builtins.tryEval (builtins.toJSON (case.refused result.config));
    in
    lib.optional attempt.success "was not refused: ${attempt.value}";

  judgeAssertions =
    case: result:
    let
      fired = failedAssertions result.config;
      unexpected = lib.filter (message: !lib.any (part: lib.hasInfix part message) case.fires) fired;
      missing = lib.filter (part: !lib.any (lib.hasInfix part) fired) case.fires;
    in
    map (message: "an assertion fires that should not: ${message}") unexpected
    ++ map (part: "no assertion says: ${part}") missing;

  judgeResult =
    case: result:
    let
      seen = { inherit (result) config options; };
      wrong = lib.attrNames (lib.filterAttrs (_: holds: !holds) (case.expect seen));
    in
    map (message: "an assertion fires: ${message}") (failedAssertions result.config)
    ++ map (what: "it does not hold that ${what}") wrong
    ++ units (force result.config);

  # The modules change units that the package has, and the programs read the files that the modules write.
  units =
    config:
    let
      ours =
        suffix: set:
        map (unit: unit + suffix) (lib.filter (lib.hasPrefix "wisehosting") (lib.attrNames set));
      template =
        unit: builtins.replaceStrings [ "@control-plane" "@worker" "@proxy" ] [ "@" "@" "@" ] unit;
      all =
        ours ".service" config.systemd.services
        ++ ours ".socket" config.systemd.sockets
        ++ ours ".timer" config.systemd.timers;
      unknown = lib.filter (unit: !lib.elem (template unit) packaged) all;
      text = lib.concatMapStrings (
        unit: builtins.readFile (../../packaging/systemd + "/${template unit}")
      ) (lib.subtractLists unknown all);
      unread = lib.filter (file: lib.hasPrefix "wisehosting/" file && !lib.hasInfix "/etc/${file}" text) (
        lib.attrNames config.environment.etc
      );
    in
    map (unit: "packaging/systemd has no ${unit}") unknown
    ++ map (file: "no packaged unit reads /etc/${file}") unread;

  hostCase = module: {
    modules = [ module ];
    expect = { config, ... }: {
      "nothing warns" = lib.filter (lib.hasInfix "wisehosting") config.warnings == [ ];
    };
  };

  all =
    cases // lib.mapAttrs' (name: module: lib.nameValuePair "host ${name}" (hostCase module)) hosts;
  results = lib.mapAttrs (_: case: evaluate case.modules) all;
in
{
  count = lib.length (lib.attrNames all);
  failures = lib.concatLists (lib.mapAttrsToList judge all);
  # Of every case that has a result.
  configs = lib.mapAttrs (name: _: results.${name}.config) (
    lib.filterAttrs (_: case: case ? expect) all
  );
}
