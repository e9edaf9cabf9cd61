//! Which preset a repository gets, and what is written for it: a row per case.

use super::*;

const LOCKED: (&str, &str) = ("package-lock.json", "");

fn of(files: &[(&str, &str)]) -> Result<Recipe, PresetError> {
    recipe(&Listing::of(files), None)
}

fn package(fields: &str) -> (&'static str, String) {
    ("package.json", format!("{{{fields}}}"))
}

fn dockerfile(files: &[(&str, &str)]) -> String {
    of(files).expect("a recipe").dockerfile
}

#[test]
fn a_repository_is_recognised_by_what_it_has() {
    let next = package(r#""dependencies":{"next":"15"},"scripts":{"build":"next build","dev":"next dev"}"#).1;
    let vite = package(r#""devDependencies":{"vite":"7"},"scripts":{"build":"vite build"}"#).1;
    let server =
        package(r#""devDependencies":{"vite":"7"},"scripts":{"build":"vite build","start":"node ."}"#).1;
    let node = package(r#""scripts":{"start":"node ."}"#).1;
    for (files, preset, because) in [
        (vec![("package.json", next.as_str()), ("yarn.lock", "")], Preset::Next, "package.json, yarn.lock"),
        (
            vec![("package.json", vite.as_str()), ("index.html", "")],
            Preset::Vite,
            "package.json, no lock file",
        ),
        (vec![("package.json", server.as_str()), LOCKED], Preset::Node, "package.json, package-lock.json"),
        (
            vec![("package.json", node.as_str()), ("pnpm-lock.yaml", "")],
            Preset::Node,
            "package.json, pnpm-lock.yaml",
        ),
        (vec![("go.mod", ""), ("main.go", ""), ("index.html", "")], Preset::Go, "go.mod, ."),
        (vec![("go.mod", ""), ("cmd/web", "")], Preset::Go, "go.mod, ./cmd/web"),
        (vec![("requirements.txt", ""), ("app.py", "")], Preset::Python, "requirements.txt"),
        (vec![("pyproject.toml", ""), ("main.py", "")], Preset::Python, "pyproject.toml"),
        (vec![("index.html", "")], Preset::Static, "index.html"),
        (vec![("public/index.html", "")], Preset::Static, "public/index.html"),
    ] {
        let recipe = of(&files).expect("a recipe");
        assert_eq!((recipe.preset, recipe.because.as_str()), (preset, because), "{files:?}");
    }
}

#[test]
fn the_lock_file_decides_who_installs() {
    let text = package(r#""scripts":{"start":"node ."}"#).1;
    for (lock, copied, install, prune) in [
        ("package-lock.json", "package.json package-lock.json", "npm ci --no-audit --no-fund", "npm prune"),
        (
            "npm-shrinkwrap.json",
            "package.json npm-shrinkwrap.json",
            "npm ci --no-audit --no-fund",
            "npm prune",
        ),
        ("pnpm-lock.yaml", "package.json pnpm-lock.yaml", "pnpm install --frozen-lockfile", "pnpm prune"),
        ("yarn.lock", "package.json yarn.lock", "yarn install --frozen-lockfile", ""),
        ("README", "package.json", "npm install --no-audit --no-fund", "npm prune"),
    ] {
        let text = dockerfile(&[("package.json", &text), (lock, "")]);
        let layers = format!("COPY {copied} ./\nRUN {install}\nCOPY . .\n");
        assert!(text.contains(&layers) && text.contains(prune), "{lock}: {text}");
    }
    let needs_all =
        package(r#""scripts":{"start":"node .","postinstall":"patch"},"packageManager":"yarn@4""#).1;
    let text = dockerfile(&[("package.json", &needs_all), ("yarn.lock", ""), (".yarnrc.yml", "")]);
    assert!(text.contains("RUN corepack enable\nCOPY . .\nRUN yarn install --immutable\n"), "{text}");
}

#[test]
fn what_is_started_is_the_program_itself() {
    let started = |fields: &str, more: &[(&'static str, &str)]| {
        let text = package(fields).1;
        let files: Vec<_> =
            [("package.json", text.as_str())].into_iter().chain(more.iter().copied()).collect();
        let text = dockerfile(&files);
        text.lines().last().expect("a line").to_owned()
    };
    assert_eq!(
        started(r#""scripts":{"start":"node dist/server.js"}"#, &[]),
        r#"CMD ["node","dist/server.js"]"#
    );
    assert_eq!(started(r#""scripts":{"start":"a && b \"c\""}"#, &[]), r#"CMD ["sh","-c","a && b \"c\""]"#);
    assert_eq!(started(r#""main":"./lib.js""#, &[("lib.js", "")]), r#"CMD ["node","./lib.js"]"#);
    assert_eq!(started(r#""main":"gone.js""#, &[("server.js", "")]), r#"CMD ["node","server.js"]"#);
    let procfile = ("Procfile", "worker: x\nweb: node web.js\n");
    assert_eq!(started(r#""scripts":{"start":"y"}"#, &[procfile]), r#"CMD ["node","web.js"]"#);
    let next = r#""dependencies":{"next":"15"},"scripts":{"build":"next build"}"#;
    assert_eq!(started(next, &[]), r#"CMD ["next","start"]"#);

    let python = |requirements: &str, file: &'static str| {
        let text = dockerfile(&[("requirements.txt", requirements), (file, "")]);
        text.lines().last().expect("a line").to_owned()
    };
    assert_eq!(python("flask", "main.py"), r#"CMD ["python","main.py"]"#);
    let uvicorn = r#"CMD ["sh","-c","exec uvicorn main:app --host 0.0.0.0 --port $PORT"]"#;
    assert_eq!(python("Uvicorn==1", "main.py"), uvicorn);
    assert_eq!(
        python("gunicorn", "app.py"),
        r#"CMD ["sh","-c","exec gunicorn app:app --bind 0.0.0.0:$PORT"]"#
    );
}

#[test]
fn a_django_project_is_not_served_by_its_development_server() {
    let manage = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.site.settings')\n";
    for (requirements, installed) in
        [("django", "-r requirements.txt gunicorn\n"), ("gunicorn", "-r requirements.txt\n")]
    {
        let text = dockerfile(&[("requirements.txt", requirements), ("manage.py", manage)]);
        assert!(text.contains(installed), "{text}");
        let start = r#"CMD ["sh","-c","exec gunicorn shop.site.wsgi --bind 0.0.0.0:$PORT"]"#;
        assert_eq!(text.lines().last(), Some(start));
    }
    for manage in ["", "setdefault('DJANGO_SETTINGS_MODULE', 'a; b.settings')"] {
        let error =
            of(&[("requirements.txt", "django"), ("manage.py", manage)]).expect_err("nothing to start");
        assert!(error.to_string().contains("manage.py that names its settings"), "{error}");
    }
}

#[test]
fn every_preset_serves_without_root_and_build_tools() {
    let build = r#""scripts":{"build":"x","start":"y"},"dependencies":{"next":"1","vite":"1"}"#;
    let text = package(build).1;
    let files = [
        ("package.json", text.as_str()),
        ("go.mod", ""),
        ("main.go", ""),
        ("requirements.txt", ""),
        ("app.py", ""),
        ("index.html", ""),
    ];
    let listing = Listing::of(&files);
    for preset in Preset::ALL {
        let text = recipe(&listing, Some(*preset)).expect("a recipe").dockerfile;
        let last = text.rsplit("FROM ").next().expect("a stage");
        let unprivileged =
            last.starts_with("docker.io/nginxinc/nginx-unprivileged") || last.contains("\nUSER ");
        assert!(unprivileged, "{preset}: {last}");
        assert!(!last.contains("install") && last.contains("COPY"), "{preset}: {last}");
        let writes_to_tmp_only = matches!(preset, Preset::Vite | Preset::Go | Preset::Static);
        assert_eq!(
            last.contains("\nLABEL wisehosting.read-only=true\n"),
            writes_to_tmp_only,
            "{preset}: {last}"
        );
    }
}

#[test]
fn versions_are_taken_only_if_they_are_ones() {
    let text = package(r#""scripts":{"start":"x"}"#).1;
    for (asked, image) in [("v20.11.0\n", "node:20 "), ("lts/*", "node:22 "), ("20\nRUN evil", "node:22 ")] {
        let text = dockerfile(&[("package.json", &text), (".nvmrc", asked)]);
        assert!(text.starts_with(&format!("FROM docker.io/library/{image}")), "{text}");
    }
    for (asked, image) in [("3.11\n", "python:3.11 "), ("pypy3.9", "python:3.13 "), ("3", "python:3.13 ")] {
        let text = dockerfile(&[("requirements.txt", ""), ("app.py", ""), (".python-version", asked)]);
        assert!(text.starts_with(&format!("FROM docker.io/library/{image}")), "{text}");
    }
}

#[test]
fn what_does_not_suit_is_told_with_what_was_looked_for() {
    let told =
        |files: &[(&str, &str)], chosen| recipe(&Listing::of(files), chosen).expect_err("none").to_string();
    assert!(told(&[("README", "")], None).contains("package.json (Next.js, Vite, Node), go.mod (Go)"));
    let wrong = told(&[("index.html", "")], Some(Preset::Go));
    assert!(wrong.contains("is to be built as Go, but its repository has no go.mod"), "{wrong}");
    assert!(told(&[("package.json", "{}")], None).contains("looked for a start script"));
    assert!(told(&[("package.json", "{")], None).starts_with("package.json is not readable: EOF"));
    let two = told(&[("go.mod", ""), ("cmd/a", ""), ("cmd/b", "")], None);
    assert!(two.contains("main.go, or one folder in cmd"), "{two}");
}

#[test]
fn no_link_is_followed() {
    let dir = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("package.json")).expect("a link");
    std::os::unix::fs::symlink("/etc", dir.path().join("cmd")).expect("a link");
    fs::write(dir.path().join("Procfile"), "web: x").expect("written");
    let listing = Listing::read(dir.path()).expect("read");
    assert_eq!((listing.text("package.json"), listing.entries("cmd").count()), (Some(""), 0));
    assert_eq!(listing.text("Procfile"), Some("web: x"));
}
