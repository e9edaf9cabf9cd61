//! Python: a virtual environment of what is asked for, and the program beside it.

use super::{Listing, PresetError, command, procfile};
use wisehosting_domain::preset::Preset;

const DEFAULT_PYTHON: &str = "3.13";
const LOOKED_FOR: &str =
    "a web line in Procfile, main.py, app.py, manage.py that names its settings (Django)";

pub(super) fn render(listing: &Listing) -> Result<(String, String), PresetError> {
    let (file, copied, install) = if listing.has("requirements.txt") {
        ("requirements.txt", "requirements.txt ./", "-r requirements.txt")
    } else if listing.has("pyproject.toml") {
        ("pyproject.toml", ". .", ".")
    } else {
        return Err(PresetError::Missing(Preset::Python, "requirements.txt or pyproject.toml"));
    };
    let asked_for = asked_for(listing);
    let start = start(listing, &asked_for).ok_or(PresetError::NoStart(Preset::Python, LOOKED_FOR))?;
    // Django's own server is for development only.
    let server = if start.contains("gunicorn") && !asked_for.contains("gunicorn") { " gunicorn" } else { "" };
    let image = image(listing);
    let dockerfile = format!(
        "FROM {image} AS build\nWORKDIR /app\nRUN python -m venv /venv\nENV PATH=/venv/bin:$PATH\n\
         COPY {copied}\nRUN pip install --no-cache-dir --disable-pip-version-check {install}{server}\n\n\
         FROM {image}-slim\nRUN useradd --create-home app\nENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1\n\
         WORKDIR /app\nCOPY --from=build /venv /venv\nCOPY --chown=app . .\nUSER app\n{}\n",
        command(&start)
    );
    Ok((file.to_owned(), dockerfile))
}

fn image(listing: &Listing) -> String {
    let asked = listing.text(".python-version").unwrap_or_default().trim();
    let version = |part: &str| part.parse::<u8>().is_ok();
    let usable = asked.split('.').count() >= 2 && asked.split('.').all(version);
    format!("docker.io/library/python:{}", if usable { asked } else { DEFAULT_PYTHON })
}

/// What is to be installed, in lower case.
fn asked_for(listing: &Listing) -> String {
    let texts = [listing.text("requirements.txt"), listing.text("pyproject.toml")];
    texts.into_iter().flatten().collect::<String>().to_lowercase()
}

fn start(listing: &Listing, asked_for: &str) -> Option<String> {
    if let Some(said) = procfile(listing) {
        return Some(said.to_owned());
    }
    let file = listing.those_of(&["main.py", "app.py"]).first().copied();
    let module = file.map(|file| file.trim_end_matches(".py"));
    if let Some(module) = module.filter(|_| asked_for.contains("uvicorn") || asked_for.contains("fastapi[")) {
        return Some(format!("exec uvicorn {module}:app --host 0.0.0.0 --port $PORT"));
    }
    if let Some(module) = module.filter(|_| asked_for.contains("gunicorn")) {
        return Some(format!("exec gunicorn {module}:app --bind 0.0.0.0:$PORT"));
    }
    if let Some(project) = django_project(listing) {
        return Some(format!("exec gunicorn {project}.wsgi --bind 0.0.0.0:$PORT"));
    }
    file.map(|file| format!("python {file}"))
}

/// The package that a Django project's `manage.py` has its settings from.
fn django_project(listing: &Listing) -> Option<&str> {
    let (_, rest) = listing.text("manage.py")?.split_once("DJANGO_SETTINGS_MODULE")?;
    let settings = rest.split(['"', '\'']).find(|text| text.ends_with(".settings"))?;
    let project = settings.strip_suffix(".settings")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    project.chars().all(plain).then_some(project)
}
