//! An app's settings on the wire, and the bounds that the types of the domain do not set.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use wisehosting_domain::{
    id::AppId,
    limits::{Limits, LimitsError},
    secret::{Sealed, Secret},
    settings::Settings,
    source::Repository,
};

use wisehosting_store::apps::RepositoryLogin;

use super::Login;
use crate::{
    error::Problem,
    sealing::{self, KeyRing, Place},
};

const HEALTH_PATH_LEN_MAX: usize = 1_024;
const HEALTH_TIMEOUT_MS: RangeInclusive<u64> = 1_000..=600_000;
const VARIABLES_MAX: usize = 256;
const VARIABLE_VALUE_LEN_MAX: usize = 32 * 1_024;
/// All of them go to the worker in one message: JSON makes a byte six at most, so they stay below the channel's limit.
const ENVIRONMENT_BYTES_MAX: usize = 256 * 1_024;

/// The settings of an app, which its next deployment will copy.
#[derive(Debug, Serialize, ToSchema)]
pub struct AppSettings {
    /// Address of its git repository.
    #[schema(example = "https://example.org/hello.git")]
    pub repository: String,
    /// Branch or tag; the repository's default branch if absent.
    #[schema(example = "main")]
    pub branch: Option<String>,
    /// The login for the repository, if one is set. Its password is never shown.
    pub login: Option<Login>,
    /// Port on which the container listens; one that the image exposes alone takes its place.
    #[schema(example = 8080)]
    pub port: u16,
    /// Path of the health probe.
    #[schema(example = "/")]
    pub health_path: String,
    /// How long the container may take to become healthy.
    #[schema(example = 60_000)]
    pub health_timeout_ms: u64,
    /// How to build the repository; by its Dockerfile, or, without one, as what it looks like, if absent.
    #[schema(example = "node")]
    pub preset: Option<String>,
    /// Whether the container may write to `/tmp` only; where its preset needs no more, if absent.
    pub read_only: Option<bool>,
    /// What each instance may use.
    pub limits: LimitsBody,
    /// Names of the container's environment variables. Their values are never shown.
    #[schema(example = json!(["DATABASE_URL"]))]
    pub environment: Vec<String>,
}

/// What an instance may use.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitsBody {
    /// Memory and swap together.
    #[schema(example = 268_435_456)]
    pub memory_bytes: u64,
    /// Processor time in thousandths of a core.
    #[schema(example = 1_000)]
    pub cpu_millis: u32,
    /// Processes and threads.
    #[schema(example = 512)]
    pub pids: u32,
    /// Traffic in each direction, in bits per second; not limited if absent.
    #[schema(example = 10_000_000)]
    pub bandwidth_bits_per_s: Option<u64>,
    /// What it may write to its disk and keep there; not limited if absent.
    #[schema(example = 1_073_741_824)]
    pub disk_bytes: Option<u64>,
}

/// Limits to set; one that is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsPatch {
    /// Memory and swap together: 16 MiB to 256 GiB.
    #[schema(example = 268_435_456)]
    pub memory_bytes: Option<u64>,
    /// Processor time in thousandths of a core: 50 to 64000.
    #[schema(example = 1_000)]
    pub cpu_millis: Option<u32>,
    /// Processes and threads: 8 to 32768.
    #[schema(example = 512)]
    pub pids: Option<u32>,
    /// Traffic in each direction, in bits per second: 100000 to 10000000000; `null` for no limit.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, example = 10_000_000)]
    pub bandwidth_bits_per_s: Option<Option<u64>>,
    /// What it may write to its disk and keep there: 16 MiB to 16 TiB; `null` for no limit.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, example = 1_073_741_824)]
    pub disk_bytes: Option<Option<u64>>,
}

/// Tells `null` from an absent field.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl AppSettings {
    pub(super) fn new(settings: Settings, login: Option<RepositoryLogin>) -> Self {
        Self {
            repository: settings.source.repository.into(),
            branch: settings.source.branch.map(Into::into),
            login: login.map(Login::from),
            port: settings.port,
            health_path: settings.health_path,
            health_timeout_ms: settings.health_timeout_ms,
            preset: settings.preset.map(|preset| preset.as_str().to_owned()),
            read_only: settings.read_only,
            limits: LimitsBody {
                memory_bytes: settings.limits.memory_bytes(),
                cpu_millis: settings.limits.cpu_millis(),
                pids: settings.limits.pids(),
                bandwidth_bits_per_s: settings.limits.bandwidth_bits_per_s(),
                disk_bytes: settings.limits.disk_bytes(),
            },
            environment: settings.environment.into_keys().collect(),
        }
    }
}

impl LimitsPatch {
    /// `base` with what is set here.
    pub(super) fn apply(self, base: Limits) -> Result<Limits, Problem> {
        let limits = Limits::new(
            self.memory_bytes.unwrap_or(base.memory_bytes()),
            self.cpu_millis.unwrap_or(base.cpu_millis()),
            self.pids.unwrap_or(base.pids()),
        );
        let bandwidth = self.bandwidth_bits_per_s.unwrap_or(base.bandwidth_bits_per_s());
        let disk = self.disk_bytes.unwrap_or(base.disk_bytes());
        let limits = limits.and_then(|limits| limits.with_bandwidth(bandwidth));
        limits.and_then(|limits| limits.with_disk(disk)).map_err(|error| {
            let field = match error {
                LimitsError::Memory(_) => "limits.memory_bytes",
                LimitsError::Cpu(_) => "limits.cpu_millis",
                LimitsError::Pids(_) => "limits.pids",
                LimitsError::Bandwidth(_) => "limits.bandwidth_bits_per_s",
                LimitsError::Disk(_) => "limits.disk_bytes",
            };
            refused(field, error)
        })
    }
}

/// Checks what the types of [`Settings`] leave open.
pub(super) fn check(settings: &Settings, allow_local_repositories: bool) -> Result<(), Problem> {
    check_repository(&settings.source.repository, allow_local_repositories)?;
    if settings.port == 0 {
        return Err(refused("port", "use a port from 1 to 65535"));
    }
    let path = &settings.health_path;
    if !path.starts_with('/')
        || path.len() > HEALTH_PATH_LEN_MAX
        || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
    {
        return Err(refused(
            "health_path",
            "use a path that starts with a slash, without spaces or fragment",
        ));
    }
    if !HEALTH_TIMEOUT_MS.contains(&settings.health_timeout_ms) {
        return Err(refused("health_timeout_ms", "use 1000 to 600000 milliseconds"));
    }
    Ok(())
}

fn check_repository(repository: &Repository, allow_local: bool) -> Result<(), Problem> {
    if !repository.is_local() || allow_local {
        return Ok(());
    }
    let message = "folders of a worker are not allowed here as repositories: use an https:// address";
    Err(refused("repository", message).hint("The operator can set `apps.allow_local_repositories`."))
}

/// Sets the variables that have a value, sealed for this app, and removes those that have none.
pub(super) fn change_environment(
    environment: &mut BTreeMap<String, Sealed>,
    changes: BTreeMap<String, Option<Secret>>,
    app: AppId,
    keys: &KeyRing,
) -> Result<(), Problem> {
    for (name, value) in changes {
        check_variable(&name, value.as_ref())?;
        match value {
            Some(value) => {
                let sealed = keys.seal(app, Place::Variable(&name), &value);
                environment.insert(name, sealed)
            }
            None => environment.remove(&name),
        };
    }
    if environment.len() > VARIABLES_MAX {
        return Err(refused("environment", format!("use {VARIABLES_MAX} variables at most")));
    }
    let bytes = |(name, value): (&String, &Sealed)| name.len() + sealing::secret_len(value);
    if environment.iter().map(bytes).sum::<usize>() > ENVIRONMENT_BYTES_MAX {
        let message = format!("use {} KiB at most for all variables together", ENVIRONMENT_BYTES_MAX / 1_024);
        return Err(refused("environment", message)
            .hint("Put large values into files of the repository or of its image."));
    }
    Ok(())
}

fn check_variable(name: &str, value: Option<&Secret>) -> Result<(), Problem> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        let message =
            format!("{name:?} is not a variable's name: use letters, digits and _, not a digit first");
        return Err(refused("environment", message));
    }
    let value = value.map_or("", Secret::expose);
    if value.len() > VARIABLE_VALUE_LEN_MAX || value.contains('\0') {
        let message = format!("{name}: use {VARIABLE_VALUE_LEN_MAX} bytes at most, without NUL");
        return Err(refused("environment", message));
    }
    Ok(())
}

fn refused(field: &str, why: impl std::fmt::Display) -> Problem {
    Problem::invalid(field, format!("{field}: {why}"))
}
