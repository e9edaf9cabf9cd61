//! Configuration: a TOML file, and environment variables that override single settings.
//!
//! `WISEHOSTING_<SECTION>__<KEY>` overrides `section.key`, deeper levels likewise; its value is a number, a truth value
//! or an array if it reads as one in TOML, and else a text (`"8081"` in quotes is a text too). Every error names the
//! setting and where it was read, and repeats no value of a secret: secrets are not in the configuration
//! ([`secret`](crate::secret)).

use crate::join;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    env, fmt, fs, io,
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
    map::Entry,
};
use wisehosting_domain::name::Label;

/// Exit status of a program that was given a bad configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CODE: u8 = 78;

const PREFIX: &str = "WISEHOSTING_";
const LEVEL_SEPARATOR: &str = "__";
/// The place of what stands in another text.
const UNPLACED: Range<usize> = 0..0;

/// Why a configuration cannot be used. Whoever gets one exits with [`EXIT_CODE`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or a setting is unknown, missing or of the wrong type.
    #[error("{place}: {message}")]
    Setting {
        /// File and line, or the environment variable.
        place: String,
        /// Names the setting.
        message: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{setting}: {message}")]
    Invalid {
        /// Such as `mesh.private_key_file`.
        setting: String,
        /// What is wrong and what to do.
        message: String,
    },
}

impl ConfigError {
    /// The value of `setting` cannot be used, because of `message`.
    pub fn invalid(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { setting: setting.into(), message: message.into() }
    }
}

/// Reads a program's configuration from its file and the process's environment.
///
/// # Errors
/// What is wrong, naming the setting.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let environment =
        env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let below = join::beside(path);
    match (read(path)?, read(&below)?) {
        (text, Some(joined)) => {
            let below = Below { file: &below, text: &joined };
            parse_above(Some(below), path, text.as_deref().unwrap_or_default(), environment)
        }
        (Some(text), None) => parse(path, &text, environment),
        (None, None) => {
            Err(ConfigError::Read { path: path.to_owned(), source: io::ErrorKind::NotFound.into() })
        }
    }
}

/// The text of a file, if there is one.
fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

/// Settings that hold where a configuration has none: what [joining](crate::join) gave.
#[derive(Clone, Copy)]
struct Below<'a> {
    file: &'a Path,
    text: &'a str,
}

/// Reads a configuration from the text of `file` and these environment variables; others than overrides are ignored.
///
/// # Errors
/// What is wrong, naming the setting.
pub fn parse<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    parse_above(None, file, text, environment)
}

fn parse_above<T: DeserializeOwned>(
    below: Option<Below<'_>>,
    file: &Path,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let overrides = Override::all(environment);
    let at_span = |error: &toml::de::Error| match below {
        Some(below) if error.span() == Some(UNPLACED) => Place::File(below.file.to_owned(), None),
        _ => Place::in_file(file, text, error),
    };
    let mut table = parse_table(file, text)?;
    if let Some(below) = below {
        put_below(table.get_mut(), parse_table(below.file, below.text)?.into_inner());
    }
    for setting in &overrides {
        setting.apply(table.get_mut())?;
    }
    serde_path_to_error::deserialize(toml::Deserializer::from(table)).map_err(|error| {
        let path = error.path().to_string();
        let place = overrides
            .iter()
            .find(|setting| setting.is_about(&path, error.inner().message()))
            .map_or_else(|| at_span(error.inner()), |setting| Place::Variable(setting.variable.clone()));
        let message = match path.as_str() {
            "." => error.inner().message().to_owned(),
            setting => format!("{setting}: {}", error.inner().message()),
        };
        ConfigError::Setting { place: place.to_string(), message }
    })
}

fn parse_table<'t>(file: &Path, text: &'t str) -> Result<Spanned<DeTable<'t>>, ConfigError> {
    DeTable::parse(text).map_err(|error| ConfigError::Setting {
        place: Place::in_file(file, text, &error).to_string(),
        message: error.message().to_owned(),
    })
}

/// Adds what a table does not have, section by section.
fn put_below<'t>(table: &mut DeTable<'t>, below: DeTable<'t>) {
    for (key, value) in below {
        let value = without_places(value.into_inner());
        match table.entry(unplaced(key.into_inner())) {
            Entry::Vacant(entry) => drop(entry.insert(unplaced(value))),
            Entry::Occupied(mut entry) => {
                if let (DeValue::Table(table), DeValue::Table(below)) = (entry.get_mut().get_mut(), value) {
                    put_below(table, below);
                }
            }
        }
    }
}

/// The same value, as if it stood in no text.
fn without_places<'t>(value: DeValue<'t>) -> DeValue<'t> {
    let all = |value: Spanned<DeValue<'t>>| unplaced(without_places(value.into_inner()));
    match value {
        DeValue::Table(table) => DeValue::Table(
            table.into_iter().map(|(key, value)| (unplaced(key.into_inner()), all(value))).collect(),
        ),
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(all).collect()),
        value => value,
    }
}

/// Where a setting was read.
enum Place {
    File(PathBuf, Option<usize>),
    Variable(String),
}

impl Place {
    fn in_file(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = |start: usize| text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
        Self::File(file.to_owned(), error.span().map(|span| line(span.start)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, Some(line)) => write!(f, "{}:{line}", file.display()),
            Self::File(file, None) => write!(f, "{}", file.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One environment variable that overrides a setting.
struct Override {
    variable: String,
    /// From the outermost table to the key.
    path: Vec<String>,
    value: String,
}

impl Override {
    fn all(environment: impl IntoIterator<Item = (String, String)>) -> Vec<Self> {
        let parse = |(variable, value): (String, String)| {
            let path: Vec<_> =
                variable.strip_prefix(PREFIX)?.split(LEVEL_SEPARATOR).map(str::to_ascii_lowercase).collect();
            (path.len() > 1).then_some(Self { variable, path, value })
        };
        let mut all: Vec<_> = environment.into_iter().filter_map(parse).collect();
        all.sort_by(|a, b| a.variable.cmp(&b.variable));
        all
    }

    fn apply<'i>(&'i self, mut table: &mut DeTable<'i>) -> Result<(), ConfigError> {
        let (key, sections) = self.path.split_last().expect("an override has two levels at least");
        for section in sections {
            let entry = table
                .entry(unplaced(section.as_str().into()))
                .or_insert_with(|| unplaced(DeValue::Table(DeTable::new())));
            let DeValue::Table(inner) = entry.get_mut() else {
                return Err(ConfigError::Setting {
                    place: format!("environment variable {}", self.variable),
                    message: format!("{section:?} is a value, not a section"),
                });
            };
            table = inner;
        }
        table.insert(unplaced(key.as_str().into()), unplaced(self.typed_value()));
        Ok(())
    }

    /// The value as TOML where it reads as such, and else as the text that it is.
    fn typed_value(&self) -> DeValue<'_> {
        DeValue::parse(&self.value)
            .map_or_else(|_| DeValue::String(self.value.as_str().into()), Spanned::into_inner)
    }

    /// Whether an error at `path` with `message` is this override's fault: its value is wrong, or its key is unknown.
    fn is_about(&self, path: &str, message: &str) -> bool {
        let own = self.path.join(".");
        let unknown = |key: &String| message.starts_with(&format!("unknown field `{key}`"));
        path == own
            || path.starts_with(&format!("{own}["))
            || path.starts_with(&format!("{own}."))
            || (own.starts_with(path) && self.path.iter().any(unknown))
            || (path == "." && self.path.first().is_some_and(unknown))
    }
}

fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(UNPLACED, value)
}

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How an event is written.
    pub format: LogFormat,
    /// Level, or comma-separated `target=level` pairs.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// How a log event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One readable line on standard error.
    Text,
    /// One JSON object per line on standard error.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}

/// `[control_plane]`: how an agent reaches the control plane and who it is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlPlaneEndpoint {
    /// Base of the internal API.
    pub url: ControlPlaneUrl,
    /// This node's name, as the control plane knows it.
    pub name: Label,
    /// File with this node's API key; else the systemd credential `control_plane.api_key`.
    pub api_key_file: Option<PathBuf>,
}

/// Base URL of the control plane, without a slash at its end: https to anywhere, or http to a literal loopback or
/// private (RFC 1918) address, where the mesh encrypts. An API key is never sent in clear over another network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ControlPlaneUrl(reqwest::Url);

impl ControlPlaneUrl {
    /// The URL of a path below the base; `path` starts with a slash.
    #[must_use]
    pub fn join(&self, path: &str) -> reqwest::Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        url
    }
}

impl TryFrom<String> for ControlPlaneUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        let url = reqwest::Url::parse(&text).map_err(|_| UrlError::NotAUrl)?;
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(UrlError::Extra);
        }
        let host = url.host_str().ok_or(UrlError::NotAUrl)?;
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let guarded = literal.is_some_and(|ip| match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
            IpAddr::V6(ip) => ip.is_loopback(),
        });
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if guarded => Ok(Self(url)),
            _ => Err(UrlError::InClear),
        }
    }
}

/// Why a text is not a usable base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is none.
    #[error("is not a URL: write https://host or http://10.50.0.1:8081")]
    NotAUrl,
    /// It has a user, a password, a query or a fragment.
    #[error("must have a scheme, a host, a port and a path only")]
    Extra,
    /// It would send the API key unencrypted.
    #[error(
        "use https, or http with the literal loopback or private address of the control plane in the mesh"
    )]
    InClear,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        control_plane: ControlPlaneEndpoint,
        #[serde(default)]
        log: LogConfig,
        limits: Limits,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        port: u16,
        names: Vec<String>,
    }

    const TEXT: &str = r#"
[control_plane]
url = "http://10.50.0.1:8081/"
name = "worker-1"
[limits]
port = 80
names = []
"#;

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Example, String> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        parse(Path::new("/etc/x.toml"), text, environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let config = read(
            TEXT,
            &[
                ("WISEHOSTING_LIMITS__PORT", "81"),
                ("WISEHOSTING_LIMITS__NAMES", r#"["a"]"#),
                ("WISEHOSTING_LOG__FORMAT", "json"),
                ("WISEHOSTING_TOKEN", "not an override"),
            ],
        )
        .unwrap();
        assert_eq!((config.limits.port, config.limits.names), (81, vec!["a".to_owned()]));
        assert_eq!((config.log.format, config.log.filter.as_str()), (LogFormat::Json, "info"));
        assert_eq!(config.control_plane.name.as_str(), "worker-1");
        let url = config.control_plane.url.join("/v1/workers/ws");
        assert_eq!(url.as_str(), "http://10.50.0.1:8081/v1/workers/ws");
    }

    #[test]
    fn an_error_names_the_setting_and_its_place() {
        for (from, to, expected) in [
            ("port = 80", "port = true", "/etc/x.toml:6: limits.port: invalid type"),
            ("port = 80", "prot = 80", "/etc/x.toml:6: limits.prot: unknown field `prot`"),
            ("port = 80\n", "", "/etc/x.toml:5: limits: missing field `port`"),
            ("port = 80", "port = ", "/etc/x.toml:6: "),
            ("http://10.50.0.1:8081/", "http://8.8.8.8", "/etc/x.toml:3: control_plane.url: use https"),
            ("worker-1", "Worker 1", "/etc/x.toml:4: control_plane.name: \"Worker 1\" is not a DNS label"),
        ] {
            let error = read(&TEXT.replace(from, to), &[]).unwrap_err();
            assert!(error.starts_with(expected), "{error}\n  {expected}");
        }
    }

    #[test]
    fn an_error_names_the_variable() {
        for (variable, value, expected) in [
            ("WISEHOSTING_LIMITS__PORT", "many", "limits.port: invalid type"),
            ("WISEHOSTING_LIMITS__NAMES", "[1]", "limits.names[0]: invalid type"),
            ("WISEHOSTING_LIMITS__NAME", "a", "limits.name: unknown field `name`"),
            ("WISEHOSTING_LIMIT__PORT", "1", "limit: unknown field `limit`"),
            ("WISEHOSTING_LIMITS__PORT__X", "1", "\"port\" is a value, not a section"),
        ] {
            let error = read(TEXT, &[(variable, value)]).unwrap_err();
            assert!(error.starts_with(&format!("environment variable {variable}: {expected}")), "{error}");
        }
    }

    #[test]
    fn a_key_is_never_sent_in_clear() {
        for good in ["https://cp.example.org", "http://127.0.0.1:1", "http://[::1]:1", "http://192.168.1.1"] {
            assert!(ControlPlaneUrl::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for (bad, error) in [
            ("http://localhost", UrlError::InClear),
            ("http://172.32.0.1", UrlError::InClear),
            ("ftp://10.0.0.1", UrlError::InClear),
            ("https://a:b@example.org", UrlError::Extra),
            ("https://example.org/?key=1", UrlError::Extra),
            ("10.50.0.1:8081", UrlError::NotAUrl),
        ] {
            assert_eq!(ControlPlaneUrl::try_from(bad.to_owned()), Err(error), "{bad}");
        }
    }
}
